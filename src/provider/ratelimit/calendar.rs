//! Dates by hand: what providers write into headers and messages, and when their days and months turn.
//!
//! Everything is milliseconds since 1970 in UTC. Knows no clock and no providers.

use std::time::{SystemTime, UNIX_EPOCH};

const SECOND: i64 = 1000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

/// Milliseconds since 1970; 0 for a clock that stands before it.
pub fn unix_ms(wall: SystemTime) -> i64 {
    wall.duration_since(UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_millis()).ok()).unwrap_or(0)
}

/// The three date formats of HTTP (RFC 9110 §5.6.7): IMF-fixdate, RFC 850, asctime.
pub fn http_date(text: &str) -> Option<i64> {
    let mut words = text.split([' ', ',', '-']).filter(|word| !word.is_empty());
    let (_weekday, first, second) = (words.next()?, words.next()?, words.next()?);
    let (third, fourth) = (words.next()?, words.next()?);
    let (year, month, day, time) = if first.starts_with(|c: char| c.is_ascii_digit()) {
        (third, second, first, fourth)
    } else {
        (fourth, first, second, third)
    };
    let month = match month.as_bytes() {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let year = match (digits(year, 4)?, year.len()) {
        (short, 2) if short < 70 => 2000 + short,
        (short, 2) => 1900 + short,
        (year, _) => year,
    };
    let (time, rest) = clock(time)?;
    rest.is_empty().then_some(())?;
    Some(date_ms(year, month, digits(day, 2)?)? + time)
}

/// `2026-11-23T13:00:14.5Z`, with any offset (RFC 3339). Without one it is taken for UTC.
pub fn rfc3339(text: &str) -> Option<i64> {
    let (moment, rest) = date_and_time(text)?;
    Some(moment + offset(rest)?)
}

/// A date inside a sentence: `2026-12-01`, `2026-12-01 at 00:00 UTC`, or RFC 3339; what follows is ignored.
pub fn date_prefix(text: &str) -> Option<i64> {
    if let Some((moment, rest)) = date_and_time(text) {
        return Some(moment + offset(rest).unwrap_or(0));
    }
    let (date, rest) = date(text)?;
    let time = rest.trim_start().strip_prefix("at ").and_then(clock).map_or(0, |(time, _)| time);
    Some(date + time)
}

/// The next 00:00 UTC after `now`.
pub fn next_utc_midnight(now: i64) -> i64 {
    (now.div_euclid(DAY) + 1) * DAY
}

/// The first of the next month, 00:00 UTC.
pub fn next_utc_month(now: i64) -> i64 {
    let (year, month, _) = civil(now.div_euclid(DAY));
    let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    days(year, month, 1) * DAY
}

/// The next midnight in Los Angeles (Google's quota day), by the rules in force since 2007.
pub fn next_pacific_midnight(now: i64) -> i64 {
    let local = now - pacific_lag(now);
    let midnight = (local.div_euclid(DAY) + 1) * DAY;
    // The clocks may change before that midnight, so its own lag counts and not today's.
    midnight + pacific_lag(midnight + pacific_lag(now))
}

/// How far Los Angeles is behind UTC: 7 h from the second Sunday of March to the first of November, else 8 h.
fn pacific_lag(now: i64) -> i64 {
    let (year, _, _) = civil(now.div_euclid(DAY));
    let starts = (sunday(year, 3) + 7) * DAY + 10 * HOUR;
    let ends = sunday(year, 11) * DAY + 9 * HOUR;
    if (starts..ends).contains(&now) { 7 * HOUR } else { 8 * HOUR }
}

/// The first Sunday of a month, in days since 1970 (which began on a Thursday).
fn sunday(year: i64, month: i64) -> i64 {
    let first = days(year, month, 1);
    first + (3 - first).rem_euclid(7)
}

/// Days since 1970 of a Gregorian date. Years are at most 9999 here, so nothing overflows.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years are counted from March, so that the leap day is the last one of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days`].
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn date_ms(year: i64, month: i64, day: i64) -> Option<i64> {
    let count = days(year, month, day);
    // 30 February counts to 1 or 2 March: a date that does not come back is none.
    (civil(count) == (year, month, day)).then_some(count * DAY)
}

fn date(text: &str) -> Option<(i64, &str)> {
    let (head, rest) = text.split_at_checked(10)?;
    let mut parts = head.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let moment = date_ms(digits(year, 4)?, digits(month, 2)?, digits(day, 2)?)?;
    (year.len() == 4 && parts.next().is_none()).then_some((moment, rest))
}

fn date_and_time(text: &str) -> Option<(i64, &str)> {
    let (date, rest) = date(text)?;
    let (time, rest) = clock(rest.strip_prefix(['T', 't', ' '])?)?;
    Some((date + time, rest))
}

/// `08:49:37` or `08:49`, and what follows (fractions of a second are left there).
fn clock(text: &str) -> Option<(i64, &str)> {
    let pair = |at: usize| digits(text.get(at..at + 2)?, 2);
    let (hour, minute) = (pair(0)?, pair(3)?);
    if text.get(2..3) != Some(":") || hour > 23 || minute > 59 {
        return None;
    }
    let (second, used) = match text.get(5..6) {
        Some(":") => (pair(6)?, 8),
        _ => (0, 5),
    };
    // 60 is a leap second.
    (second <= 60).then_some(((hour * 3600 + minute * 60 + second) * SECOND, text.get(used..)?))
}

/// What brings a local time to UTC: `Z`, `UTC`, nothing, or `+02:00`, after fractions of a second.
fn offset(rest: &str) -> Option<i64> {
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let rest = rest.trim();
    if rest.is_empty() || ["z", "utc", "gmt"].iter().any(|zone| rest.eq_ignore_ascii_case(zone)) {
        return Some(0);
    }
    let (sign, zone) = match rest.split_at_checked(1)? {
        ("+", zone) => (-1, zone),
        ("-", zone) => (1, zone),
        _ => return None,
    };
    let (time, rest) = clock(zone)?;
    rest.is_empty().then_some(sign * time)
}

fn digits(text: &str, most: usize) -> Option<i64> {
    let plain = (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_dates_go_there_and_back() {
        for (date, count) in [
            ((1970, 1, 1), 0),
            ((1969, 12, 31), -1),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 24), 20_781),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days(date.0, date.1, date.2), count, "{date:?}");
            assert_eq!(civil(count), date, "{count}");
        }
        for count in -800_000..800_000 {
            let (year, month, day) = civil(count);
            assert_eq!(days(year, month, day), count);
        }
    }

    #[test]
    fn http_dates() {
        let expected = Some(784_111_777_000);
        for (text, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", expected),
            ("Sunday, 06-Nov-94 08:49:37 GMT", expected),
            ("Sun Nov  6 08:49:37 1994", expected),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 31 Feb 2026 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 24:49:37 GMT", None),
            ("Sun, 06 Foo 1994 08:49:37 GMT", None),
            ("tomorrow", None),
            ("", None),
            ("é, é é é é", None),
        ] {
            assert_eq!(http_date(text), expected, "{text}");
        }
    }

    #[test]
    fn rfc_3339_dates() {
        let noon = Some(1_795_438_814_000);
        for (text, expected) in [
            ("2026-11-23T13:00:14Z", noon),
            ("2026-11-23t13:00:14.123456z", noon),
            ("2026-11-23 15:00:14+02:00", noon),
            ("2026-11-23T05:30:14-07:30", noon),
            ("2026-11-23T13:00:14", noon),
            ("2026-11-23T13:00:14 UTC", noon),
            ("2026-11-23T13:00:14 later", None),
            ("2026-13-23T13:00:14Z", None),
            ("2026-11-23", None),
            ("2026-11-2é", None),
            ("2026-11-23T1é:00:14Z", None),
            ("", None),
        ] {
            assert_eq!(rfc3339(text), expected, "{text}");
        }
    }

    #[test]
    fn dates_inside_sentences() {
        let first = Some(1_796_083_200_000);
        for (text, expected) in [
            ("2026-12-01 at 00:00 utc.", first),
            ("2026-12-01.", first),
            ("2026-12-01", first),
            ("2026-12-01t00:00:00z, sorry", first),
            ("2026-12-01 at 01:00 utc.", first.map(|ms| ms + HOUR)),
            ("12/01/2026", None),
        ] {
            assert_eq!(date_prefix(text), expected, "{text}");
        }
    }

    #[test]
    fn days_and_months_turn() {
        let at = |text| rfc3339(text).unwrap();
        for (now, midnight, month, pacific) in [
            // Winter time, 8 h behind.
            ("2026-11-23T02:13:20Z", "2026-11-24T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11-23T08:00:00Z"),
            ("2026-11-23T08:00:00Z", "2026-11-24T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11-24T08:00:00Z"),
            // Summer time, 7 h behind; across the end of a year.
            ("2026-07-01T06:59:59Z", "2026-07-02T00:00:00Z", "2026-08-01T00:00:00Z", "2026-07-01T07:00:00Z"),
            ("2026-12-31T23:00:00Z", "2027-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-01-01T08:00:00Z"),
            // The day the clocks go forward (8 March 2026) begins 8 h behind and ends 7 h behind.
            ("2026-03-08T08:30:00Z", "2026-03-09T00:00:00Z", "2026-04-01T00:00:00Z", "2026-03-09T07:00:00Z"),
            // The day they go back (1 November 2026) begins 7 h behind and ends 8 h behind.
            ("2026-11-01T07:30:00Z", "2026-11-02T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11-02T08:00:00Z"),
            ("2026-11-01T06:30:00Z", "2026-11-02T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11-01T07:00:00Z"),
        ] {
            assert_eq!(next_utc_midnight(at(now)), at(midnight), "midnight after {now}");
            assert_eq!(next_utc_month(at(now)), at(month), "month after {now}");
            assert_eq!(next_pacific_midnight(at(now)), at(pacific), "Pacific midnight after {now}");
        }
    }
}
