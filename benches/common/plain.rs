//! A plain, non-blocking connection as the hub's socket: what benches and tests write to without a runtime.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use barcast::gateway::hub::Socket;
use socket2::SockRef;

pub struct Plain(pub TcpStream);

impl Socket for Plain {
    type Handle<'a> = BorrowedFd<'a>;

    fn handle(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn send(handle: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(&handle).send(bytes)
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        SockRef::from(&self.0).send(bytes)
    }
}
