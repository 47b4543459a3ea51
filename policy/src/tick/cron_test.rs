//! Tables of what is and is not a cron expression.

use std::collections::BTreeMap;

use super::*;

fn seed(source: &str) -> Seed {
    Seed::of_source("shop", source)
}

fn parse(text: &str) -> Result<Expression, CronError> {
    text.parse()
}

fn resolve(text: &str) -> Cron {
    parse(text).unwrap().resolve(&seed("orders"))
}

#[test]
fn ways_to_write_the_same() {
    for (one, other) in [
        ("0 0 * * *", "  0\t0  * *\n* "),
        ("0 0 * JAN-MAR SUN", "0 0 * 1-3 0"),
        ("0 0 * jan,Feb,mar fri-sun", "0 0 * 1,2,3 5,6,0"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * 0-7", "0 0 * * 0-6"),
        ("*/15 * * * *", "0-59/15 * * * *"),
        ("*/15 * * * *", "0-50/15 * * * *"),
        ("0 0 */1 * *", "0 0 * * *"),
        ("00 007 01 * *", "0 7 1 * *"),
    ] {
        assert_eq!(resolve(one), resolve(other), "{one:?} and {other:?}");
    }
    // As sets they are equal, but only one recurs.
    let (stepped, listed) = (resolve("0 1-11/5 * * *"), resolve("0 1,6,11 * * *"));
    assert_eq!((stepped.hours, stepped.recurs), (listed.hours, true));
    assert!(!listed.recurs);
}

#[test]
fn errors_name_field_found_expected_and_remedy() {
    let table = [
        (
            "",
            r#"cron "": found 0 fields, expected five: minute, hour, day of month, month, day of week; write * for a field that does not matter"#,
        ),
        (
            "* * * *",
            r#"cron "* * * *": found 4 fields, expected five: minute, hour, day of month, month, day of week; write * for a field that does not matter"#,
        ),
        (
            "0 0 2 * * *",
            r#"cron "0 0 2 * * *": found 6 fields, expected five: minute, hour, day of month, month, day of week; a tick is a whole minute: remove seconds and years"#,
        ),
        (
            "H(0 - 5) 2 * * * * *",
            r#"cron "H(0 - 5) 2 * * * * *": found 9 fields, expected five: minute, hour, day of month, month, day of week; write no spaces within H(a-b)"#,
        ),
        ("60 * * * *", r#"cron "60 * * * *", minute: found "60", expected a value of 0-59"#),
        ("* 24 * * *", r#"cron "* 24 * * *", hour: found "24", expected a value of 0-23"#),
        (
            "* * 0 * *",
            r#"cron "* * 0 * *", day of month: found "0", expected a value of 1-31"#,
        ),
        (
            "* * * 13 *",
            r#"cron "* * * 13 *", month: found "13", expected a value of 1-12 or JAN-DEC"#,
        ),
        (
            "* * * * 8",
            r#"cron "* * * * 8", day of week: found "8", expected a value of 0-7 or SUN-SAT"#,
        ),
        (
            "-1 * * * *",
            r#"cron "-1 * * * *", minute: found "-1", expected a range a-b; name two values of 0-59"#,
        ),
        (
            "99999999999999999999 * * * *",
            r#"cron "99999999999999999999 * * * *", minute: found "99999999999999999999", expected a value of 0-59"#,
        ),
        (
            "*/0 * * * *",
            r#"cron "*/0 * * * *", minute: found "/0", expected a step of /1 to /59; a step begins anew with each range; use the next field for longer steps"#,
        ),
        (
            "*/90 * * * *",
            r#"cron "*/90 * * * *", minute: found "/90", expected a step of /1 to /59; a step begins anew with each range; use the next field for longer steps"#,
        ),
        (
            "*/x * * * *",
            r#"cron "*/x * * * *", minute: found "/X", expected a step of /1 to /59; write a number"#,
        ),
        (
            "*/ * * * *",
            r#"cron "*/ * * * *", minute: found "/", expected a step of /1 to /59; write a number"#,
        ),
        (
            "5/15 * * * *",
            r#"cron "5/15 * * * *", minute: found "5/15", expected a step after *, a range or H; write 5-59/15 to begin at 5"#,
        ),
        (
            "/15 * * * *",
            r#"cron "/15 * * * *", minute: found "/15", expected *, a value, a range a-b, H or H(a-b), each also with a step /n; write */n for a step"#,
        ),
        (
            "1,,2 * * * *",
            r#"cron "1,,2 * * * *", minute: found "", expected *, a value, a range a-b, H or H(a-b), each also with a step /n; remove the comma too many"#,
        ),
        (
            "0 22-2 * * *",
            r#"cron "0 22-2 * * *", hour: found "22-2", expected a range from the lesser to the greater value; write 22-23,0-2"#,
        ),
        (
            "0 0 L * *",
            r#"cron "0 0 L * *", day of month: found "L", expected a value of 1-31; L, W and # are extensions of other crons; name days by number"#,
        ),
        (
            "0 0 * * 5#2",
            r#"cron "0 0 * * 5#2", day of week: found "5#2", expected a value of 0-7 or SUN-SAT; L, W and # are extensions of other crons; name days by number"#,
        ),
        (
            "0 0 ? * *",
            r#"cron "0 0 ? * *", day of month: found "?", expected a value of 1-31; write * instead of ?"#,
        ),
        (
            "0 0 * * MONDAY",
            r#"cron "0 0 * * MONDAY", day of week: found "MONDAY", expected a value of 0-7 or SUN-SAT"#,
        ),
        (
            "H(5) * * * *",
            r#"cron "H(5) * * * *", minute: found "H(5)", expected H or H(a-b); write for example H(0-5)"#,
        ),
        (
            "H5 * * * *",
            r#"cron "H5 * * * *", minute: found "H5", expected H or H(a-b); write for example H(0-5)"#,
        ),
        (
            "0 0 H(29-31) * *",
            r#"cron "0 0 H(29-31) * *", day of month: found "H(29-31)", expected H within 1-28; choose bounds that each source can have"#,
        ),
        (
            "@daily",
            r#"cron "@daily": found an alias, expected five fields; write "0 0 * * *", or "H H * * *" to spread the load"#,
        ),
        (
            "@reboot",
            r#"cron "@reboot": found an alias, expected five fields; write minute, hour, day of month, month and day of week"#,
        ),
        (
            "CRON_TZ=UTC 0 0 * * *",
            r#"cron "CRON_TZ=UTC 0 0 * * *": found a zone, expected five fields; remove it and set timeZone"#,
        ),
        ("ß é 漢 🦀 *", r#"cron "ß é 漢 🦀 *", minute: found "SS", expected a value of 0-59"#),
    ];
    for (text, message) in table {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
    let long = parse(&format!("{} * * * *", "1,".repeat(200))).unwrap_err().to_string();
    assert!(long.contains("found 408 bytes, expected at most 256") && long.len() < 250, "{long}");
}

#[test]
fn what_never_happens_is_refused() {
    for never in [
        "0 0 30 2 *",
        "0 0 30,31 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 31 2-2 *",
        "0 0 31 H(4-5) *",
        "0 0 30 H *",
    ] {
        assert!(
            parse(never)
                .unwrap_err()
                .to_string()
                .contains("day of month: found days that the months named do not have"),
            "{never}"
        );
    }
    // The other day field, a day or month that fits, or an H that each month has.
    for comes in [
        "0 0 30 2 1",
        "0 0 29 2 *",
        "0 0 29,31 2 *",
        "0 0 31 2,3 *",
        "0 0 H,31 2 *",
        "0 0 31 3,H *",
        "0 0 29 H *",
        "0 0 31 H(7-8) *",
    ] {
        let cron = resolve(comes);
        assert!(
            Timetable::new(cron, Zone::utc())
                .next_after("2096-03-01T00:00:00Z".parse().unwrap())
                .is_some(),
            "{comes}"
        );
    }
}

#[test]
fn h_is_the_same_for_ever() {
    // Written down once: a change would move every schedule of every user.
    let table = [
        ("H H H H H", "13 12 12 8 0"),
        ("H/15 H(1-5) * * *", "13-59/15 5 * * *"),
        ("H(10-50)/20 H/6 * * 1-5", "23-50/20 0-23/6 * * 1-5"),
        ("5,H 0 * * MON", "5,13 0 * * 1"),
    ];
    for (text, expanded) in table {
        assert_eq!(parse(text).unwrap().expanded(&seed("orders")), expanded, "{text}");
    }
}

#[test]
fn h_differs_by_namespace_and_name_and_between_fields() {
    let expanded = |namespace: &str, name: &str| parse("H H * * *").unwrap().expanded(&Seed::of_source(namespace, name));
    assert_ne!(expanded("shop", "orders"), expanded("shop", "users"));
    assert_ne!(expanded("shop", "orders"), expanded("prod", "orders"));
    assert_ne!(expanded("a", "b-c"), expanded("a-b", "c"));
}

#[test]
fn h_spreads_hundreds_of_sources() {
    let mut minutes = BTreeMap::<u32, u32>::new();
    for source in 0..6000 {
        let cron = parse("H H(2-5) * * *").unwrap().resolve(&seed(&format!("db-{source}")));
        *minutes.entry(cron.minutes.trailing_zeros()).or_default() += 1;
    }
    assert_eq!(minutes.len(), 60);
    // 100 are expected in each; seven standard deviations.
    assert!(minutes.values().all(|count| (30..=170).contains(count)), "{minutes:?}");
}

#[test]
fn expanded_means_the_same() {
    for text in [
        "H * * * *",
        "H/7 H/5 H/3 H/2 H/2",
        "H(3-40)/9,H H(1-2) H(1-28) H(2-11) H(1-5)",
        "*/5,7 1-5/2 * JAN FRI-SUN",
        "H/59 H/23 H/27 H/11 H/6",
    ] {
        for source in 0..200 {
            let (expression, seed) = (parse(text).unwrap(), seed(&source.to_string()));
            let expanded = expression.expanded(&seed);
            assert!(!expanded.contains('H'));
            assert_eq!(
                parse(&expanded).unwrap().resolve(&seed),
                expression.resolve(&seed),
                "{text} is {expanded}"
            );
        }
    }
}
