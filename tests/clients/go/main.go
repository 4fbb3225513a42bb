// The Go end of the network tests: a client with Go's own ClientHello, and a server that speaks HTTP/2.
package main

import (
	"bufio"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 2 {
		log.Fatal("usage: clients ask|serve|web|socket|bodies|rpc|rpc-serve|authz OPTIONS")
	}
	run := map[string]func([]string) error{
		"ask": ask, "serve": serve, "web": web, "socket": socket, "bodies": bodies, "rpc": rpc, "rpc-serve": rpcServe,
		"authz": authz,
	}[os.Args[1]]
	if run == nil {
		log.Fatalf("%q is none of them", os.Args[1])
	}
	if err := run(os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

var versions = map[string]uint16{
	"":    0,
	"1.0": tls.VersionTLS10,
	"1.1": tls.VersionTLS11,
	"1.2": tls.VersionTLS12,
	"1.3": tls.VersionTLS13,
}

// ask opens connections one after the other, sends the line on each, and prints what each agreed on and the line that came back.
func ask(arguments []string) error {
	flags := flag.NewFlagSet("ask", flag.ExitOnError)
	address := flags.String("address", "", "where to connect")
	name := flags.String("name", "", "server name")
	authority := flags.String("ca", "", "PEM of the authority")
	line := flags.String("line", "who", "what to send")
	lowest := flags.String("min", "", "lowest version of TLS")
	highest := flags.String("max", "", "highest version of TLS")
	hidden := flags.String("ech", "", "file with the ECHConfigList of the server")
	times := flags.Int("times", 1, "connections; later ones may resume the session of earlier ones")
	flags.Parse(arguments)

	pem, err := os.ReadFile(*authority)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	config := &tls.Config{
		RootCAs:            roots,
		ServerName:         *name,
		MinVersion:         versions[*lowest],
		MaxVersion:         versions[*highest],
		ClientSessionCache: tls.NewLRUClientSessionCache(0),
	}
	if *hidden != "" {
		if config.EncryptedClientHelloConfigList, err = os.ReadFile(*hidden); err != nil {
			return err
		}
	}
	for range *times {
		if err := once(*address, config, *line); err != nil {
			return err
		}
	}
	return nil
}

func once(address string, config *tls.Config, line string) error {
	const patience = 5 * time.Second
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: patience}, Config: config}
	connection, err := dialer.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer connection.Close()
	connection.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintln(connection, line); err != nil {
		return err
	}
	answer, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return err
	}
	state := connection.(*tls.Conn).ConnectionState()
	fmt.Printf("%s group=%v resumed=%v ech=%v: %s\n", tls.VersionName(state.Version), state.CurveID, state.DidResume, state.ECHAccepted,
		strings.TrimSpace(answer))
	return nil
}

// serve answers GET with its name, the protocol and the client's address, and PUT with the number of bytes that came.
func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	listen := flags.String("listen", "", "address and port")
	name := flags.String("name", "", "what it calls itself")
	certificate := flags.String("certificate", "", "PEM")
	key := flags.String("key", "", "PEM")
	lowest := flags.String("min", "1.2", "lowest version of TLS")
	hidden := flags.String("ech", "", "take encrypted hellos, and write the ECHConfigList for them to this file")
	outer := flags.String("outer", "", "the name outside of encrypted hellos")
	flags.Parse(arguments)

	handler := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPut {
			length, _ := io.Copy(io.Discard, request.Body)
			fmt.Fprintln(answer, length)
			return
		}
		fmt.Fprintf(answer, "%s %s %s %s\n", *name, request.Proto, tls.VersionName(request.TLS.Version), request.RemoteAddr)
	})
	server := &http.Server{
		Addr:      *listen,
		Handler:   handler,
		TLSConfig: &tls.Config{MinVersion: versions[*lowest]},
	}
	if *hidden != "" {
		key, list, err := encryptedHello(*outer)
		if err != nil {
			return err
		}
		server.TLSConfig.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{key}
		if err := os.WriteFile(*hidden, list, 0o644); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	return server.ServeTLS(listener, *certificate, *key)
}

// encryptedHello makes a key for encrypted hellos, and the ECHConfigList that tells clients of it (RFC 9849 section 4).
func encryptedHello(outer string) (tls.EncryptedClientHelloKey, []byte, error) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return tls.EncryptedClientHelloKey{}, nil, err
	}
	vector := func(bytes []byte) []byte {
		return append(binary.BigEndian.AppendUint16(nil, uint16(len(bytes))), bytes...)
	}
	contents := []byte{1, 0, 0x20} // config_id, and DHKEM(X25519, HKDF-SHA256)
	contents = append(contents, vector(private.PublicKey().Bytes())...)
	contents = append(contents, vector([]byte{0, 1, 0, 1})...) // HKDF-SHA256 with AES-128-GCM
	contents = append(contents, 0, byte(len(outer)))           // maximum_name_length, public_name
	contents = append(contents, outer...)
	contents = append(contents, vector(nil)...) // extensions
	config := append([]byte{0xfe, 0x0d}, vector(contents)...)
	key := tls.EncryptedClientHelloKey{Config: config, PrivateKey: private.Bytes(), SendAsRetry: true}
	return key, vector(config), nil
}
