use super::*;

#[test]
fn spans_sizes_and_rates_are_read_as_people_write_them() {
    assert_eq!(Span::parse("30s"), Some(Span::secs(30)));
    assert_eq!(Span::parse("250ms"), Some(Span(Duration::from_millis(250))));
    assert_eq!(Span::parse("1h"), Some(Span::secs(3600)));
    assert_eq!(Bytes::parse("64KiB"), Some(Bytes(65536)));
    let rate = Rate::parse("100/60s").unwrap();
    assert_eq!((rate.count.get(), rate.per.as_secs()), (100, 60));
}

#[test]
fn what_has_no_unit_or_a_wrong_one_is_refused() {
    for bad in [
        "",
        "30",
        "s",
        "-1s",
        "1.5s",
        "30 parsecs",
        "99999999999999999999s",
        "18446744073709551615d",
    ] {
        assert_eq!(Span::parse(bad), None, "{bad:?}");
    }
    for bad in ["64", "64KB", "KiB", "18446744073709551615GiB"] {
        assert_eq!(Bytes::parse(bad), None, "{bad:?}");
    }
    for bad in ["0/60s", "100/0s", "100", "100/", "100/60", "a/1s"] {
        assert_eq!(Rate::parse(bad), None, "{bad:?}");
    }
}

#[test]
fn a_count_is_a_bare_number_that_may_be_off() {
    #[derive(Deserialize)]
    struct Table {
        n: OrOff<Count>,
    }
    let read = |text: &str| toml::from_str::<Table>(&format!("n = {text}")).map(|t| t.n);
    assert_eq!(read("7").unwrap().on().unwrap().0.get(), 7);
    assert_eq!(read("\"off\"").unwrap(), OrOff::Off);
    for bad in ["0", "-1", "4294967296", "\"7\"", "\"on\"", "1.5", "true"] {
        let why = read(bad).unwrap_err().to_string();
        assert!(why.contains("a whole number from 1, or \"off\""), "{why}");
    }
}

#[test]
fn spans_and_sizes_are_shown_in_their_largest_whole_unit() {
    for text in ["0s", "30s", "250ms", "5m", "48h"] {
        assert_eq!(Span::parse(text).unwrap().to_string(), text);
    }
    for text in ["0B", "1000B", "64KiB", "1MiB", "3GiB", "1025KiB"] {
        assert_eq!(Bytes::parse(text).unwrap().to_string(), text);
    }
}

#[test]
fn a_day_is_written_as_year_month_and_day() {
    for (text, begins) in [("1970-01-01", 0), ("2026-12-31", 1_798_675_200)] {
        let day = Day::parse(text).unwrap();
        assert_eq!((day.begins(), day.to_string().as_str()), (begins, text));
    }
    for bad in [
        "",
        "2026-12",
        "2026-2-3",
        "2026-02-30",
        "2026-13-01",
        "2026-W53-1",
        "31.12.2026",
        "+026-12-31",
        "2026-12-31T00:00:00Z",
        "2026-12-31-1",
    ] {
        assert_eq!(Day::parse(bad), None, "{bad:?}");
    }
}
