//! One field of a cron expression.

use std::fmt;

use super::cron::Seed;

/// The five fields, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    Minute,
    Hour,
    DayOfMonth,
    Month,
    DayOfWeek,
}

impl Field {
    pub(super) const ALL: [Self; 5] = [Self::Minute, Self::Hour, Self::DayOfMonth, Self::Month, Self::DayOfWeek];

    /// The least and the greatest value. 7 is Sunday, as 0 is.
    fn range(self) -> (u8, u8) {
        match self {
            Self::Minute => (0, 59),
            Self::Hour => (0, 23),
            Self::DayOfMonth => (1, 31),
            Self::Month => (1, 12),
            Self::DayOfWeek => (0, 7),
        }
    }

    /// The values of `*`.
    fn star(self) -> (u8, u8) {
        match self {
            Self::DayOfWeek => (0, 6),
            _ => self.range(),
        }
    }

    /// The values that `H` may take: only days of the month that each month has.
    fn hashed(self) -> (u8, u8) {
        match self {
            Self::DayOfMonth => (1, 28),
            _ => self.star(),
        }
    }

    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Month => &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
            Self::DayOfWeek => &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"],
            _ => &[],
        }
    }

    fn values(self) -> String {
        let (least, greatest) = self.range();
        match self.names() {
            [] => format!("{least}-{greatest}"),
            names => format!("{least}-{greatest} or {}-{}", names[0], names[names.len() - 1]),
        }
    }

    /// A number, or the name of a month or day. `ends_range`: Sunday is then the 7th day.
    fn value(self, text: &str, ends_range: bool) -> Result<u8, Fault> {
        let (least, greatest) = self.range();
        let found = if let Some(place) = self.names().iter().position(|name| *name == text) {
            let value = u8::try_from(place).ok().map(|place| place + least);
            if ends_range && self == Self::DayOfWeek && value == Some(0) {
                Some(7)
            } else {
                value
            }
        } else if text.bytes().all(|b| b.is_ascii_digit()) {
            text.parse().ok()
        } else {
            None
        };
        found.filter(|value| (least..=greatest).contains(value)).ok_or_else(|| {
            let special = ["L", "W", "#"].iter().any(|special| text.contains(special));
            let remedy = match (text, special) {
                ("?", _) => "write * instead of ?",
                (_, true) => "L, W and # are extensions of other crons; name days by number",
                _ => "",
            };
            Fault::new(text, format!("a value of {}", self.values()), remedy)
        })
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        })
    }
}

/// What is wrong with a field.
#[derive(Debug)]
pub(super) struct Fault {
    pub found: String,
    pub expected: String,
    pub remedy: String,
}

impl Fault {
    fn new(found: &str, expected: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            found: found.to_owned(),
            expected: expected.into(),
            remedy: remedy.into(),
        }
    }
}

/// One element of the list that a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Element {
    base: Base,
    from: u8,
    to: u8,
    step: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Star,
    Literal,
    Hash,
}

/// A field as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FieldList {
    field: Field,
    elements: Vec<Element>,
}

impl FieldList {
    /// `text` in upper case.
    pub fn parse(field: Field, text: &str) -> Result<Self, Fault> {
        let elements = text
            .split(',')
            .map(|element| Element::parse(field, element))
            .collect::<Result<_, _>>()?;
        Ok(Self { field, elements })
    }

    /// Holds `*` or `*/1`: the field restricts nothing.
    pub fn unrestricted(&self) -> bool {
        self.elements
            .iter()
            .any(|element| element.base == Base::Star && element.step.unwrap_or(1) == 1)
    }

    /// Is `*` or has a step.
    pub fn recurs(&self) -> bool {
        self.elements
            .iter()
            .any(|element| element.base == Base::Star || element.step.is_some())
    }

    /// The values of a source, a bit for each. Sunday is bit 0.
    pub fn mask(&self, seed: &Seed) -> u64 {
        self.elements
            .iter()
            .fold(0, |mask, element| mask | element.resolved(self.field, seed).mask(self.field))
    }

    /// The values that are the same for each source.
    pub fn literal_mask(&self) -> u64 {
        self.elements
            .iter()
            .filter(|element| element.base != Base::Hash)
            .fold(0, |mask, element| mask | element.mask(self.field))
    }

    /// The values that some source may have by an `H`.
    pub fn hashed_mask(&self) -> u64 {
        let spans = self.elements.iter().filter(|element| element.base == Base::Hash);
        spans.fold(0, |mask, element| mask | Element { step: None, ..*element }.mask(self.field))
    }

    /// As [`FieldList::mask`], as text.
    pub fn expanded(&self, seed: &Seed) -> String {
        let elements: Vec<_> = self
            .elements
            .iter()
            .map(|element| element.resolved(self.field, seed).to_string())
            .collect();
        elements.join(",")
    }
}

impl Element {
    fn parse(field: Field, text: &str) -> Result<Self, Fault> {
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (text, None),
        };
        let (base, (from, to)) = if range.is_empty() {
            let expected = "*, a value, a range a-b, H or H(a-b), each also with a step /n";
            return Err(Fault::new(
                text,
                expected,
                if step.is_some() {
                    "write */n for a step"
                } else {
                    "remove the comma too many"
                },
            ));
        } else if range == "*" {
            (Base::Star, field.star())
        } else if range == "H" {
            (Base::Hash, field.hashed())
        } else if let Some(inner) = range.strip_prefix('H') {
            let bounds = inner
                .strip_prefix('(')
                .and_then(|inner| inner.strip_suffix(')'))
                .and_then(|inner| inner.split_once('-'));
            let (from, to) = bounds.ok_or_else(|| Fault::new(range, "H or H(a-b)", "write for example H(0-5)"))?;
            let (from, to) = ordered(field, range, from, to)?;
            let (least, greatest) = field.hashed();
            if from < least || to > greatest {
                return Err(Fault::new(
                    range,
                    format!("H within {least}-{greatest}"),
                    "choose bounds that each source can have",
                ));
            }
            (Base::Hash, (from, to))
        } else if let Some((from, to)) = range.split_once('-') {
            (Base::Literal, ordered(field, range, from, to)?)
        } else {
            let value = field.value(range, false)?;
            if let Some(step) = step {
                let remedy = format!("write {value}-{}/{step} to begin at {value}", field.star().1);
                return Err(Fault::new(text, "a step after *, a range or H", remedy));
            }
            (Base::Literal, (value, value))
        };
        let step = step.map(|step| parse_step(field, step)).transpose()?;
        Ok(Self { base, from, to, step })
    }

    /// Without `H`.
    fn resolved(self, field: Field, seed: &Seed) -> Self {
        if self.base != Base::Hash {
            return self;
        }
        let size = self.to - self.from + 1;
        match self.step {
            None => {
                let value = self.from + seed.below(field, size);
                Self {
                    base: Base::Literal,
                    from: value,
                    to: value,
                    step: None,
                }
            }
            Some(step) => Self {
                base: Base::Literal,
                from: self.from + seed.below(field, size.min(step)),
                ..self
            },
        }
    }

    fn mask(self, field: Field) -> u64 {
        let values = (self.from..=self.to).step_by(self.step.unwrap_or(1).into());
        values.fold(0, |mask, value| {
            mask | 1 << if field == Field::DayOfWeek { value % 7 } else { value }
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.base, self.from == self.to && self.step.is_none()) {
            (Base::Star, _) => f.write_str("*")?,
            (_, true) => write!(f, "{}", self.from)?,
            (_, false) => write!(f, "{}-{}", self.from, self.to)?,
        }
        self.step.map_or(Ok(()), |step| write!(f, "/{step}"))
    }
}

fn ordered(field: Field, range: &str, from: &str, to: &str) -> Result<(u8, u8), Fault> {
    if from.is_empty() || to.is_empty() {
        return Err(Fault::new(range, "a range a-b", format!("name two values of {}", field.values())));
    }
    let (from, to) = (field.value(from, false)?, field.value(to, true)?);
    if from > to {
        let remedy = format!("write {from}-{},{}-{to}", field.star().1, field.range().0);
        return Err(Fault::new(range, "a range from the lesser to the greater value", remedy));
    }
    Ok((from, to))
}

fn parse_step(field: Field, text: &str) -> Result<u8, Fault> {
    let (least, greatest) = field.star();
    let limit = greatest - least;
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse()
        .ok()
        .filter(|step| digits && (1..=limit).contains(step))
        .ok_or_else(|| {
            let remedy = if digits {
                "a step begins anew with each range; use the next field for longer steps"
            } else {
                "write a number"
            };
            Fault::new(&format!("/{text}"), format!("a step of /1 to /{limit}"), remedy)
        })
}
