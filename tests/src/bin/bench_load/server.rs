//! The servers: what comes is sent back, over TCP and UDP; on one more TCP port bytes come without end. Both also behind TLS
//! as far as it can be seen from outside: a whole ClientHello is awaited first.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use gateway_tests::lab::raise_open_files;

use crate::bulk::CHUNK;
use crate::events::{Events, READ};

/// What answers a ClientHello: a handshake record of the size of a ServerHello.
pub const RECORD: [u8; 127] = {
    let mut record = [b's'; 127];
    [record[0], record[1], record[2], record[3], record[4]] = [22, 3, 3, 0, 122];
    record
};
/// Of a TLS record: type, version, length.
const HEADER: usize = 5;
/// Of a connection that wants a certain rate.
const BURSTS_PER_SECOND: u64 = 1000;

#[derive(Args)]
pub struct Options {
    #[arg(long, value_delimiter = ',', required = true)]
    addresses: Vec<Ipv4Addr>,
    /// The first port that answers.
    #[arg(long)]
    port: u16,
    /// How many ports from there answer, each over TCP and UDP.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// The TCP port of the first address that sends without end.
    #[arg(long)]
    bulk_port: u16,
    /// The TCP port of the first address that answers a ClientHello.
    #[arg(long)]
    tls_port: u16,
    /// The TCP port of the first address that sends without end after a ClientHello.
    #[arg(long)]
    tls_bulk_port: u16,
}

enum Socket {
    Listener(TcpListener, Talk),
    Connection(TcpStream),
    Hello(TcpStream, Hello),
    Datagrams(UdpSocket),
}

/// What a listener's connections begin with.
#[derive(Clone, Copy)]
enum Talk {
    Exchange,
    Hello,
}

/// What has come of the record that begins a connection.
#[derive(Default)]
struct Hello {
    header: [u8; HEADER],
    bytes: usize,
}

/// Says `ready` on its output when all ports are open, and serves until it is killed.
pub fn serve(options: &Options) -> Result<()> {
    raise_open_files()?;
    let first = options.addresses[0];
    for (port, talk) in [(options.bulk_port, Talk::Exchange), (options.tls_bulk_port, Talk::Hello)] {
        let listener = listen(first, port)?;
        std::thread::spawn(move || send_without_end(&listener, talk));
    }
    let mut events = Events::new()?;
    let mut sockets = HashMap::new();
    add(&events, &mut sockets, Socket::Listener(open(first, options.tls_port)?, Talk::Hello))?;
    for &address in &options.addresses {
        for port in options.port..options.port.saturating_add(options.ports) {
            add(&events, &mut sockets, Socket::Listener(open(address, port)?, Talk::Exchange))?;
            let datagrams = UdpSocket::bind((address, port))
                .with_context(|| format!("cannot open UDP port {port} of {address}"))?;
            datagrams.set_nonblocking(true)?;
            add(&events, &mut sockets, Socket::Datagrams(datagrams))?;
        }
    }
    println!("ready");
    let mut ready = Vec::new();
    loop {
        events.wait(&mut ready, Duration::from_secs(3600))?;
        for token in &ready {
            let accepted = match sockets.get_mut(token) {
                Some(Socket::Listener(listener, talk)) => listener.accept().ok().map(|(stream, _)| (stream, *talk)),
                Some(Socket::Datagrams(socket)) => {
                    send_back(socket);
                    None
                }
                Some(Socket::Connection(connection)) => {
                    if !answer(connection) {
                        sockets.remove(token);
                    }
                    None
                }
                Some(Socket::Hello(connection, hello)) => {
                    if !hello.answer(connection) {
                        sockets.remove(token);
                    }
                    None
                }
                None => None,
            };
            if let Some((connection, talk)) = accepted {
                connection.set_nonblocking(true)?;
                let socket = match talk {
                    Talk::Exchange => Socket::Connection(connection),
                    Talk::Hello => Socket::Hello(connection, Hello::default()),
                };
                add(&events, &mut sockets, socket)?;
            }
        }
    }
}

impl Hello {
    /// Takes what came; once the record is whole, answers it, and what comes after it too. False when the connection is over.
    fn answer(&mut self, mut connection: &TcpStream) -> bool {
        let mut buffer = [0; 4096];
        let read = match connection.read(&mut buffer) {
            Ok(0) => return false,
            Ok(read) => read,
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        };
        for (slot, byte) in self.header.iter_mut().skip(self.bytes).zip(&buffer[..read]) {
            *slot = *byte;
        }
        self.bytes += read;
        let record = HEADER + usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        if self.bytes < HEADER || self.bytes < record {
            return true;
        }
        connection.write_all(&RECORD).is_ok()
    }
}

/// For many connections on one thread.
fn open(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let listener = listen(address, port)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn listen(address: Ipv4Addr, port: u16) -> Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket
        .bind(&std::net::SocketAddrV4::new(address, port).into())
        .and_then(|()| socket.listen(4096))
        .with_context(|| format!("cannot open TCP port {port} of {address}"))?;
    Ok(socket.into())
}

fn add(events: &Events, sockets: &mut HashMap<usize, Socket>, socket: Socket) -> Result<()> {
    let token = match &socket {
        Socket::Listener(listener, _) => listener.as_raw_fd(),
        Socket::Connection(connection) | Socket::Hello(connection, _) => connection.as_raw_fd(),
        Socket::Datagrams(datagrams) => datagrams.as_raw_fd(),
    } as usize;
    match &socket {
        Socket::Listener(listener, _) => events.watch(listener, token, READ)?,
        Socket::Connection(connection) | Socket::Hello(connection, _) => events.watch(connection, token, READ)?,
        Socket::Datagrams(datagrams) => events.watch(datagrams, token, READ)?,
    }
    sockets.insert(token, socket);
    Ok(())
}

/// Sends back what came; false when the connection is over.
fn answer(mut connection: &TcpStream) -> bool {
    let mut buffer = [0; 2048];
    match connection.read(&mut buffer) {
        Ok(0) => false,
        Ok(read) => connection.write_all(&buffer[..read]).is_ok(),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}

fn send_back(socket: &UdpSocket) {
    let mut buffer = [0; 2048];
    while let Ok((read, client)) = socket.recv_from(&mut buffer) {
        // A full queue loses a datagram, as queues do; the client counts it.
        let _ = socket.send_to(&buffer[..read], client);
    }
}

/// Every connection says first, or after its ClientHello, how many bytes a second it wants, 0 for as many as it can take.
fn send_without_end(listener: &TcpListener, talk: Talk) {
    for connection in listener.incoming().flatten() {
        // It ends when its client goes.
        std::thread::spawn(move || send(connection, talk));
    }
}

fn send(mut connection: TcpStream, talk: Talk) -> std::io::Result<()> {
    if let Talk::Hello = talk {
        let mut header = [0; HEADER];
        connection.read_exact(&mut header)?;
        let record = usize::from(u16::from_be_bytes([header[3], header[4]]));
        connection.read_exact(&mut vec![0; record])?;
    }
    let mut rate = [0; 8];
    connection.read_exact(&mut rate)?;
    let rate = u64::from_be_bytes(rate);
    let chunk = vec![b'b'; CHUNK];
    if rate == 0 {
        loop {
            connection.write_all(&chunk)?;
        }
    }
    let mut left = 0;
    let mut next = Instant::now();
    loop {
        left += rate / BURSTS_PER_SECOND;
        while left > 0 {
            let size = left.min(CHUNK as u64);
            connection.write_all(&chunk[..size as usize])?;
            left -= size;
        }
        next += Duration::from_secs(1) / BURSTS_PER_SECOND as u32;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        // Who was held up does not catch up.
        next = next.max(Instant::now());
    }
}
