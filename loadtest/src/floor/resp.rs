//! As much of Redis' protocol (RESP2) as a subscriber needs: arrays of bulk strings, which may be cut
//! anywhere. <https://redis.io/docs/latest/develop/reference/protocol-spec/>

use std::ops::Range;

use anyhow::{Context, Result, bail};

use crate::market::parse_digits;

/// A message of the subscription: where in the buffer its channel and payload are.
#[derive(Debug, PartialEq, Eq)]
pub struct Push {
    /// Of `pmessage`; nothing for other answers, such as that of PSUBSCRIBE.
    pub message: Option<(Range<usize>, Range<usize>)>,
    /// Where the next answer begins.
    pub end: usize,
}

/// One line from `at`, without its end, and where the next begins.
fn line(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(at..)?;
    let end = memchr::memmem::find(rest, b"\r\n")?;
    Some((&rest[..end], at + end + 2))
}

fn length(digits: &[u8]) -> Result<usize> {
    let length = parse_digits(digits).and_then(|n| usize::try_from(n).ok());
    length.with_context(|| format!("a length from Redis: {:?}", String::from_utf8_lossy(digits)))
}

/// The answer that starts at `at`, or nothing while it is not whole.
///
/// # Errors
/// When Redis reports an error, or says what no subscriber is told.
pub fn push_at(bytes: &[u8], at: usize) -> Result<Option<Push>> {
    let Some((head, mut at)) = line(bytes, at) else {
        return Ok(None);
    };
    let [b'*', count @ ..] = head else {
        bail!("Redis answered {:?}", String::from_utf8_lossy(head));
    };
    let count = length(count)?;
    let mut parts: [Range<usize>; 4] = Default::default();
    for part in 0..count {
        let Some((head, start)) = line(bytes, at) else {
            return Ok(None);
        };
        at = match head {
            [b'$', digits @ ..] => {
                let end = start + length(digits)?;
                if bytes.len() < end + 2 {
                    return Ok(None);
                }
                if let Some(part) = parts.get_mut(part) {
                    *part = start..end;
                }
                end + 2
            }
            [b':', ..] => start,
            _ => bail!("Redis answered {:?}", String::from_utf8_lossy(head)),
        };
    }
    let [kind, _pattern, channel, payload] = parts;
    let message = (bytes.get(kind) == Some(b"pmessage")).then_some((channel, payload));
    Ok(Some(Push { message, end: at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: &[u8] = b"*3\r\n$10\r\npsubscribe\r\n$6\r\nbars:*\r\n:1\r\n\
        *4\r\n$8\r\npmessage\r\n$6\r\nbars:*\r\n$8\r\nbars:A:1\r\n$4\r\na\r\nb\r\n\
        *4\r\n$8\r\npmessage\r\n$6\r\nbars:*\r\n$8\r\nbars:B:1\r\n$0\r\n\r\n";

    fn scan(bytes: &[u8], found: &mut Vec<(String, String)>) -> usize {
        let mut at = 0;
        while let Some(push) = push_at(bytes, at).unwrap() {
            if let Some((channel, payload)) = push.message {
                let text = |range: Range<usize>| String::from_utf8(bytes[range].to_vec()).unwrap();
                found.push((text(channel), text(payload)));
            }
            at = push.end;
        }
        at
    }

    #[test]
    fn messages_are_found_wherever_they_are_cut() {
        let whole = [("bars:A:1", "a\r\nb"), ("bars:B:1", "")];
        for cut in 0..=BYTES.len() {
            let mut found = Vec::new();
            let used = scan(&BYTES[..cut], &mut found);
            let used = used + scan(&BYTES[used..], &mut found);
            assert_eq!(used, BYTES.len());
            let found: Vec<_> = found
                .iter()
                .map(|(a, b)| (a.as_str(), b.as_str()))
                .collect();
            assert_eq!(found, whole, "cut at {cut}");
        }
    }

    #[test]
    fn errors_are_told() {
        let why = push_at(b"-NOAUTH Authentication required.\r\n", 0).unwrap_err();
        assert!(why.to_string().contains("NOAUTH"), "{why}");
        assert!(push_at(b"*1\r\n$x\r\n", 0).is_err());
    }
}
