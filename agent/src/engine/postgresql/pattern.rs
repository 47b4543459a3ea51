//! Names chosen by patterns: `*` for any text, `?` for one character.

/// Whether a name fits a pattern.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.chars().collect::<Vec<_>>(), name.chars().collect::<Vec<_>>());
    let (mut at, mut of, mut star) = (0, 0, None);
    while of < name.len() {
        match pattern.get(at) {
            Some('*') => {
                star = Some((at, of));
                at += 1;
            }
            Some('?') => (at, of) = (at + 1, of + 1),
            Some(character) if *character == name[of] => (at, of) = (at + 1, of + 1),
            // The last star takes one character more.
            _ => match star {
                None => return false,
                Some((star_at, star_of)) => {
                    star = Some((star_at, star_of + 1));
                    (at, of) = (star_at + 1, star_of + 1);
                }
            },
        }
    }
    pattern[at..].iter().all(|character| *character == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("*", "shop", true),
            ("tmp_*", "tmp_1", true),
            ("tmp_*", "temp_1", false),
            ("?", "ä", true),
            ("?", "", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-cd", false),
            ("shop", "Shop", false),
            ("*_old", "shop_old_old", true),
            ("", "", true),
            ("**", "x", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern:?} {name:?}");
        }
    }

    proptest! {
        #[test]
        fn a_name_fits_itself_and_any_piece_of_it_replaced_by_a_star(name in "[a-c]{0,8}", cut in 0_usize..9, len in 0_usize..9) {
            prop_assert!(matches(&name, &name));
            let from = cut.min(name.len());
            let to = (from + len).min(name.len());
            let pattern = format!("{}*{}", &name[..from], &name[to..]);
            prop_assert!(matches(&pattern, &name));
        }
    }
}
