//! The PROXY protocol (haproxy.org, proxy-protocol.txt), versions 1 and 2: a proxy says at the start of a
//! connection whose it is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 1 begins, and version 2.
const START_1: &[u8] = b"PROXY ";
const START_2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest line of version 1, its end included.
const MAX_LINE_BYTES: usize = 107;
/// Shortest: `PROXY UNKNOWN` and its end. One byte less than version 2 has at least.
const MIN_LINE_BYTES: usize = 15;
/// The fixed part of version 2.
const HEADER_BYTES: usize = 16;
/// Longest rest of version 2: addresses, and what a proxy may add of TLS.
const MAX_REST_BYTES: usize = 1_024;

/// Why a connection that should begin with such a header is ended.
#[derive(Debug, thiserror::Error)]
pub enum ProxiedError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it does not begin with a PROXY header: does the proxy send one (send-proxy)?")]
    Missing,
    #[error("its PROXY header is malformed: {0}")]
    Malformed(&'static str),
}

use ProxiedError::{Malformed, Missing};

/// Whether a connection begins with such a header.
pub(super) fn is_start(start: &[u8]) -> bool {
    start.starts_with(START_1) || start.starts_with(START_2)
}

/// Reads the header, and nothing behind it. Whose connection it is: `None` when the proxy speaks for itself, as its
/// own checks do, or does not know.
///
/// # Errors
/// [`ProxiedError`]
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<SocketAddr>, ProxiedError> {
    let mut start = [0; MIN_LINE_BYTES];
    stream.read_exact(&mut start).await?;
    if start.starts_with(START_1) {
        read_line(stream, &start).await
    } else if start.starts_with(START_2) {
        let mut fixed = [0; HEADER_BYTES];
        fixed[..MIN_LINE_BYTES].copy_from_slice(&start);
        stream.read_exact(&mut fixed[MIN_LINE_BYTES..]).await?;
        read_binary(stream, &fixed).await
    } else {
        Err(Missing)
    }
}

async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
    start: &[u8],
) -> Result<Option<SocketAddr>, ProxiedError> {
    let mut line = Vec::with_capacity(MAX_LINE_BYTES);
    line.extend_from_slice(start);
    // Byte by byte: what follows the line is not ours. A proxy sends few connections a second.
    while !line.ends_with(b"\r\n") {
        if line.len() >= MAX_LINE_BYTES {
            return Err(Malformed("version 1 has no end within 107 bytes"));
        }
        line.push(stream.read_u8().await?);
    }
    parse_line(&line)
}

fn parse_line(line: &[u8]) -> Result<Option<SocketAddr>, ProxiedError> {
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    let line = str::from_utf8(line).map_err(|_| Malformed("version 1 is ASCII"))?;
    let parts: Vec<_> = line.split(' ').collect();
    match parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Ok(None),
        ["PROXY", "TCP4", parts @ ..] => addresses::<Ipv4Addr>(parts).map(Some),
        ["PROXY", "TCP6", parts @ ..] => addresses::<Ipv6Addr>(parts).map(Some),
        _ => Err(Malformed("version 1 has TCP4, TCP6 or UNKNOWN")),
    }
}

fn addresses<T: FromStr + Into<IpAddr>>(parts: &[&str]) -> Result<SocketAddr, ProxiedError> {
    let port = |text: &str| {
        let is_plain = text == "0" || !text.starts_with(['0', '+']);
        text.parse::<u16>().ok().filter(|_| is_plain)
    };
    let wrong = || Malformed("version 1 has two addresses and two ports");
    let [source, destination, from, to] = parts else {
        return Err(wrong());
    };
    let source: T = source.parse().map_err(|_| wrong())?;
    destination.parse::<T>().map_err(|_| wrong())?;
    port(to).ok_or_else(wrong)?;
    let from = port(from).ok_or_else(wrong)?;
    Ok(SocketAddr::new(source.into(), from))
}

async fn read_binary(
    stream: &mut (impl AsyncRead + Unpin),
    fixed: &[u8; HEADER_BYTES],
) -> Result<Option<SocketAddr>, ProxiedError> {
    let [.., command, family, high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if !matches!(command, 0x20 | 0x21) {
        return Err(Malformed("version 2 has LOCAL or PROXY"));
    }
    if length > MAX_REST_BYTES {
        return Err(Malformed("version 2 is longer than 1,024 bytes"));
    }
    let mut rest = [0; MAX_REST_BYTES];
    let rest = &mut rest[..length];
    stream.read_exact(rest).await?;
    if command == 0x20 {
        return Ok(None);
    }
    let short = || Malformed("version 2 is shorter than its addresses");
    match family {
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] =
                *rest.first_chunk().ok_or_else(short)?;
            let port = u16::from_be_bytes([high, low]);
            Ok(Some(SocketAddr::from(([a, b, c, d], port))))
        }
        0x21 => {
            let both: [u8; 36] = *rest.first_chunk().ok_or_else(short)?;
            let source: [u8; 16] = *both.first_chunk().ok_or_else(short)?;
            let port = u16::from_be_bytes([both[32], both[33]]);
            Ok(Some(SocketAddr::from((source, port))))
        }
        // Unspecified, datagrams, Unix sockets: no address of a TCP connection.
        0x00..=0x02 | 0x10 | 0x12 | 0x20 | 0x22 | 0x30..=0x32 => Ok(None),
        _ => Err(Malformed("version 2 has an unknown family")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read, and what is left.
    fn taken(bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxiedError>, usize) {
        let mut rest = bytes;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let read = runtime.block_on(read(&mut rest));
        (read, rest.len())
    }

    fn binary(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
        let mut bytes = START_2.to_vec();
        bytes.extend([command, family]);
        bytes.extend(length.to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn version_1_is_one_line() {
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80",
                Some("192.0.2.7:4711"),
            ),
            (
                "PROXY TCP6 2001:db8::1 ::1 0 65535",
                Some("[2001:db8::1]:0"),
            ),
            ("PROXY UNKNOWN", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 65535 65535", None),
        ] {
            let (read, left) = taken(format!("{line}\r\nGET /").as_bytes());
            assert_eq!(
                read.unwrap(),
                expected.map(|at| at.parse().unwrap()),
                "{line}"
            );
            assert_eq!(left, 5, "{line}");
        }
        let endless = format!("PROXY UNKNOWN {}\r\n", "a".repeat(100));
        for wrong in [
            "PROXY TCP4 192.0.2.7 127.0.0.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80 1\r\n",
            "PROXY TCP4 192.0.2.7  127.0.0.1 4711 80\r\n",
            "PROXY TCP4 ::1 ::1 4711 80\r\n",
            "PROXY TCP6 192.0.2.7 127.0.0.1 4711 80\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 +1 80\r\n",
            "PROXY TCP4 192.0.2.7 127.0.0.1 01 80\r\n",
            "PROXY TCP4 300.0.2.7 127.0.0.1 1 80\r\n",
            "PROXY UDP4 192.0.2.7 127.0.0.1 1 80\r\n",
            "PROXY tcp4 192.0.2.7 127.0.0.1 1 80\r\n",
            "PROXY \u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}\r\n",
            &endless,
        ] {
            let (read, _) = taken(wrong.as_bytes());
            assert!(matches!(read, Err(Malformed(_))), "{wrong}: {read:?}");
        }
        assert!(matches!(taken(b"GET / HTTP/1.1\r\n\r\n").0, Err(Missing)));
        assert!(matches!(taken(b"PROXY TCP4").0, Err(ProxiedError::Io(_))));
    }

    #[test]
    fn version_2_is_binary() {
        let four = [192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut six = [0; 36];
        six[..16].copy_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        six[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        let mut long = four.to_vec();
        long.resize(536, 0);
        for (bytes, expected) in [
            (binary(0x21, 0x11, 12, &four), Some("192.0.2.7:4711")),
            (binary(0x21, 0x11, 536, &long), Some("192.0.2.7:4711")),
            (binary(0x21, 0x21, 36, &six), Some("[2001:db8::1]:4711")),
            (binary(0x20, 0x11, 12, &four), None),
            (binary(0x20, 0x00, 0, &[]), None),
            (binary(0x21, 0x00, 0, &[]), None),
            (binary(0x21, 0x31, 216, &[0; 216]), None),
        ] {
            let whole = [&bytes, &b"GET /"[..]].concat();
            let (read, left) = taken(&whole);
            assert_eq!(read.unwrap(), expected.map(|at| at.parse().unwrap()));
            assert_eq!(left, 5);
        }
        for wrong in [
            binary(0x11, 0x11, 12, &four),
            binary(0x22, 0x11, 12, &four),
            binary(0x21, 0x11, 11, &four),
            binary(0x21, 0x21, 12, &four),
            binary(0x21, 0x41, 12, &four),
            binary(0x21, 0x11, 1_025, &[0; 1_025]),
        ] {
            assert!(matches!(taken(&wrong).0, Err(Malformed(_))), "{wrong:?}");
        }
    }
}
