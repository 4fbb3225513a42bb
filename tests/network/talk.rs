//! What both ends of a connection say, the same on every kind of listener: each function is one end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

use gateway_tests::client::PATIENCE;
use gateway_tests::lab::{Node, wait_for};
use socket2::{SockRef, Socket};

/// A server of the test's own.
pub fn listen(node: &Node, port: u16) -> TcpListener {
    // The listener before may live on for a moment in a process that another test starts, until that has closed what it inherits.
    let bind = || Ok(node.enter(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))?);
    let listener = wait_for("the server's port", PATIENCE, bind).unwrap();
    // Holds for accept() too.
    SockRef::from(&listener).set_read_timeout(Some(PATIENCE)).unwrap();
    listener
}

/// Fails reads and writes that take too long.
pub fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Bytes behind the other end's FIN.
const BYTES: usize = 300_000;

/// Closes its direction; the other end is [`goes_on`].
pub fn closes_first(mut stream: TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), BYTES, "the other end may go on after a FIN");
}

pub fn goes_on(mut stream: TcpStream) {
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    std::thread::sleep(Duration::from_millis(100));
    stream.write_all(&vec![7; BYTES]).unwrap();
}

/// Closes when the other end does.
pub fn closes_at_once(mut stream: TcpStream, now: &Barrier) {
    now.wait();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
}

/// Resets; the other end [`is_reset`].
pub fn resets(mut stream: TcpStream) {
    stream.read_exact(&mut [0; 2]).unwrap();
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

pub fn is_reset(mut stream: TcpStream) {
    stream.write_all(b"hi").unwrap();
    let error = stream.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// Says something urgent; the other end [`hears_what_is_urgent`].
pub fn is_urgent(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.send(b"before").unwrap();
    socket.send_out_of_band(b"!").unwrap();
    socket.send(b"after").unwrap();
}

pub fn hears_what_is_urgent(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    // The urgent byte is not in the stream: the urgent pointer came through.
    assert_eq!(String::from_utf8(all).unwrap(), "beforeafter");
}
