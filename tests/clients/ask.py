"""Python's ssl as a client of the network tests: asks a path over HTTP and prints what came."""

import argparse
import http.client
import socket
import ssl

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("port", type=int)
parser.add_argument("name", help="server name; - for none")
parser.add_argument("authority", help="PEM")
parser.add_argument("path")
parser.add_argument("--version", choices=["TLSv1_2", "TLSv1_3"])
options = parser.parse_args()

context = ssl.create_default_context(cafile=options.authority)
if options.version:
    context.minimum_version = context.maximum_version = ssl.TLSVersion[options.version]
name = None if options.name == "-" else options.name
if name is None:
    # The address has to do for the certificate, and no name is sent.
    context.check_hostname = False

with socket.create_connection((options.address, options.port), timeout=5) as plain:
    with context.wrap_socket(plain, server_hostname=name) as stream:
        stream.sendall(f"GET {options.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        answer = http.client.HTTPResponse(stream)
        answer.begin()
        print(answer.read().decode(), end="")
