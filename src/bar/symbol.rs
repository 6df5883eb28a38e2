use std::{fmt, hash, str::FromStr};

/// Longest symbol, in bytes. Wide enough for option and futures codes, small enough to be held
/// inline, so that a symbol is copied without an allocation.
pub const MAX_SYMBOL_BYTES: usize = 32;

/// What is traded: 1 to 32 of `A-Z a-z 0-9 . _ - / ^ = + &`, case kept.
///
/// Held inline: copying one never allocates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Symbol {
    // Unused bytes are zero, so that the derived comparisons hold.
    bytes: [u8; MAX_SYMBOL_BYTES],
    len: u8,
}

/// Why a text is not a [`Symbol`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SymbolError {
    /// Empty or longer than [`MAX_SYMBOL_BYTES`].
    #[error("a symbol has 1 to {MAX_SYMBOL_BYTES} characters, this one has {0}")]
    Length(usize),
    /// A character outside the allowed set.
    #[error("{0:?} is not allowed in a symbol: A-Z a-z 0-9 . _ - / ^ = + & are")]
    Character(char),
}

impl Symbol {
    /// The symbol as text.
    pub fn as_str(&self) -> &str {
        // Only ASCII is ever let in, so the text is always there.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

fn allowed(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-/^=+&".contains(&byte)
}

impl FromStr for Symbol {
    type Err = SymbolError;

    fn from_str(text: &str) -> Result<Self, SymbolError> {
        let len = match u8::try_from(text.len()) {
            Ok(len) if (1..=MAX_SYMBOL_BYTES).contains(&usize::from(len)) => len,
            _ => return Err(SymbolError::Length(text.chars().count())),
        };
        if let Some(bad) = text
            .chars()
            .find(|c| !u8::try_from(*c).is_ok_and(|b| b.is_ascii() && allowed(b)))
        {
            return Err(SymbolError::Character(bad));
        }
        let mut bytes = [0; MAX_SYMBOL_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }
}

impl hash::Hash for Symbol {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        state.write(self.as_str().as_bytes());
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
