//! Numbers and strings of the archive, put together from pieces that may end anywhere.

/// The largest string that an archive can hold (the server's limit for a field is 1 GiB).
const MAX_TEXT: i64 = 1 << 30;

/// A number: a sign byte, then `size` bytes, the lowest first.
#[derive(Debug, Default)]
pub(super) struct Number {
    bytes: [u8; 9],
    have: usize,
}

impl Number {
    /// Takes from `input` what the number still needs; `None` while it is not whole.
    pub(super) fn take(&mut self, input: &mut &[u8], size: usize) -> Option<i64> {
        let whole = size + 1;
        if self.have == 0 && input.len() >= whole {
            let (number, rest) = input.split_at(whole);
            *input = rest;
            return Some(decode(number));
        }
        let n = (whole - self.have).min(input.len());
        self.bytes[self.have..self.have + n].copy_from_slice(&input[..n]);
        self.have += n;
        *input = &input[n..];
        if self.have < whole {
            return None;
        }
        self.have = 0;
        Some(decode(&self.bytes[..whole]))
    }
}

fn decode(number: &[u8]) -> i64 {
    let value = number[1..]
        .iter()
        .rev()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
        .cast_signed();
    if number[0] == 0 { value } else { value.wrapping_neg() }
}

/// A string: its length as a number (negative for none), then its bytes.
#[derive(Debug, Default)]
pub(super) struct Text {
    length: Number,
    left: Option<usize>,
    bytes: Vec<u8>,
}

/// A whole string, or why there is none.
pub(super) enum Taken {
    /// The input ended first.
    More,
    /// The string; `None` where the archive has none. Empty where the bytes were not to be kept.
    Whole(Option<Vec<u8>>),
    /// The length is impossible.
    TooLong(i64),
}

impl Text {
    /// Takes from `input` what the string still needs. `keep` says whether its bytes are wanted.
    pub(super) fn take(&mut self, input: &mut &[u8], size: usize, keep: bool) -> Taken {
        let left = match self.left {
            Some(left) => left,
            None => match self.length.take(input, size) {
                None => return Taken::More,
                Some(length) if length < 0 => return Taken::Whole(None),
                Some(length) if length > MAX_TEXT => return Taken::TooLong(length),
                Some(length) => usize::try_from(length).unwrap_or_default(),
            },
        };
        let n = left.min(input.len());
        if keep {
            self.bytes.extend_from_slice(&input[..n]);
        }
        *input = &input[n..];
        if n < left {
            self.left = Some(left - n);
            return Taken::More;
        }
        self.left = None;
        Taken::Whole(Some(std::mem::take(&mut self.bytes)))
    }

    /// How many bytes are held for a string that is not whole yet.
    pub(super) fn held(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_put_together_from_single_bytes() {
        for (bytes, size, value) in [
            (vec![0, 1, 0, 0, 0], 4, 1),
            (vec![1, 1, 0, 0, 0], 4, -1),
            (vec![0, 0xff, 0xff, 0xff, 0xff], 4, 0xffff_ffff),
            (vec![0, 0, 0, 0, 0, 1, 0, 0, 0], 8, 1 << 32),
        ] {
            let mut number = Number::default();
            for byte in &bytes[..bytes.len() - 1] {
                assert_eq!(number.take(&mut &[*byte][..], size), None);
            }
            assert_eq!(number.take(&mut &bytes[bytes.len() - 1..], size), Some(value));
            assert_eq!(Number::default().take(&mut &bytes[..], size), Some(value));
        }
    }

    #[test]
    fn a_string_of_an_impossible_length_is_refused_before_it_is_allocated() {
        assert!(matches!(
            Text::default().take(&mut &[0, 0xff, 0xff, 0xff, 0x7f][..], 4, true),
            Taken::TooLong(0x7fff_ffff)
        ));
    }
}
