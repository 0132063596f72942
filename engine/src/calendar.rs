//! Times as texts, in RFC 3339's form and in UTC.

/// `2026-01-31T23:59:59Z`; `None` for 0, which stands for "never".
pub fn rfc3339(unix_ms: u64) -> Option<String> {
    if unix_ms == 0 {
        return None;
    }
    let seconds = unix_ms.checked_div(1000)?;
    let (days, of_day) = (seconds.checked_div(86_400)?, seconds.checked_rem(86_400)?);
    let (year, month, day) = civil(days)?;
    let (hour, minute, second) = (
        of_day.checked_div(3600)?,
        of_day.checked_div(60)?.checked_rem(60)?,
        of_day.checked_rem(60)?,
    );
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    ))
}

/// The time that a text in RFC 3339's form is, to the second: `2026-01-31T23:59:59Z`, with an
/// offset instead of `Z` or without, and with a fraction, which is passed over.
pub fn from_rfc3339(text: &str) -> Option<u64> {
    let (date, time) = text.split_at_checked(10)?;
    let [year, month, day] = fields(date, '-')?;
    let time = time.strip_prefix(['T', 't', ' '])?;
    let (clock, rest) = time.split_at_checked(8)?;
    let [hour, minute, second] = fields(clock, ':')?;
    let offset = match rest.strip_prefix('.') {
        Some(rest) => {
            let offset = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            (offset.len() < rest.len()).then_some(offset)?
        }
        None => rest,
    };
    let days = days_until(year, month, day)?;
    // A leap second is the next minute's first.
    (hour < 24 && minute < 60 && second <= 60).then_some(())?;
    let minutes = days.checked_mul(24)?.checked_add(hour)?.checked_mul(60)?;
    let minutes = minutes.checked_add(minute)?;
    let minutes = match offset.split_at_checked(1)? {
        ("Z" | "z", "") => minutes,
        ("+", ahead) => minutes.checked_sub(offset_minutes(ahead)?)?,
        ("-", behind) => minutes.checked_add(offset_minutes(behind)?)?,
        _ => return None,
    };
    minutes
        .checked_mul(60)?
        .checked_add(second)?
        .checked_mul(1000)
}

fn offset_minutes(text: &str) -> Option<u64> {
    let [hours, minutes] = fields(text, ':')?;
    (text.len() == 5 && hours < 24 && minutes < 60).then_some(())?;
    hours.checked_mul(60)?.checked_add(minutes)
}

/// Numbers of two or four digits with `separator` between them.
fn fields<const N: usize>(text: &str, separator: char) -> Option<[u64; N]> {
    let number = |part: &str| {
        let is_number = part.bytes().all(|byte| byte.is_ascii_digit());
        let is_long = matches!(part.len(), 2 | 4);
        part.parse().ok().filter(|_| is_number && is_long)
    };
    let numbers: Option<Vec<u64>> = text.split(separator).map(number).collect();
    numbers?.try_into().ok()
}

/// Days from 1970-01-01 to a date; `None` for one that is none, or before that.
fn days_until(year: u64, month: u64, day: u64) -> Option<u64> {
    (1970..=9999).contains(&year).then_some(())?;
    // No day is more than this many days after the year began in its longest form.
    let earliest = year.checked_sub(1970)?.checked_mul(365)?;
    let latest = year.checked_sub(1970)?.checked_add(1)?.checked_mul(366)?;
    let (mut low, mut high) = (earliest, latest);
    while low < high {
        let middle = low.checked_add(high)?.checked_div(2)?;
        if civil(middle)? < (year, month, day) {
            low = middle.checked_add(1)?;
        } else {
            high = middle;
        }
    }
    (civil(low)? == (year, month, day)).then_some(low)
}

/// The Gregorian date of a number of days since 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of a year: every month's start
/// is then a linear function of its number.
fn civil(days: u64) -> Option<(u64, u64, u64)> {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days.checked_add(DAYS_TO_1970)?;
    let era = days.checked_div(DAYS_PER_ERA)?;
    let of_era = days.checked_rem(DAYS_PER_ERA)?;
    // Leap days of this era before the day: one in 1461 days, but not in 36524, but in 146096.
    let leap = of_era.checked_div(1460)?;
    let centuries = of_era.checked_div(36_524)?;
    let last = of_era.checked_div(146_096)?;
    let ordinary = of_era.checked_sub(leap)?.checked_add(centuries)?;
    let year_of_era = ordinary.checked_sub(last)?.checked_div(365)?;
    let before = year_of_era
        .checked_mul(365)?
        .checked_add(year_of_era.checked_div(4)?)?
        .checked_sub(year_of_era.checked_div(100)?)?;
    let of_year = of_era.checked_sub(before)?;
    let from_march = of_year.checked_mul(5)?.checked_add(2)?.checked_div(153)?;
    let month_start = from_march
        .checked_mul(153)?
        .checked_add(2)?
        .checked_div(5)?;
    let day = of_year.checked_sub(month_start)?.checked_add(1)?;
    let (month, carried) = if from_march < 10 {
        (from_march.checked_add(3)?, 0)
    } else {
        (from_march.checked_sub(9)?, 1)
    };
    let year = era
        .checked_mul(400)?
        .checked_add(year_of_era)?
        .checked_add(carried)?;
    Some((year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        // Each from `date -u -d @SECONDS +%FT%TZ`.
        for (seconds, text) in [
            (1, "1970-01-01T00:00:01Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_799, "2000-02-29T23:59:59Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (1_762_785_120, "2025-11-10T14:32:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds * 1000).as_deref(), Some(text));
            assert_eq!(rfc3339(seconds * 1000 + 999).as_deref(), Some(text));
            assert_eq!(from_rfc3339(text), Some(seconds * 1000), "{text}");
        }
        assert_eq!(rfc3339(0), None);
    }

    #[test]
    fn times_are_read_with_offsets_and_fractions() {
        let noon = from_rfc3339("2026-01-31T12:00:00Z").unwrap();
        for same in [
            "2026-01-31t12:00:00z",
            "2026-01-31 12:00:00.123456789Z",
            "2026-01-31T13:30:00+01:30",
            "2026-01-31T07:00:00-05:00",
        ] {
            assert_eq!(from_rfc3339(same), Some(noon), "{same}");
        }
        for other in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-02-30T12:00:00Z",
            "2026-13-01T12:00:00Z",
            "2026-00-01T12:00:00Z",
            "2026-01-00T12:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:30:00+01:00",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:61Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+1:00",
            "2026-01-31T12:00:00Z ",
            "2026-01-31T+2:00:00Z",
            "2026-1-31T12:00:00Z",
            "20260131T120000Z",
            "\u{661}026-01-31T12:00:00Z",
        ] {
            assert_eq!(from_rfc3339(other), None, "{other:?}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut previous = (1970, 1, 1);
        for day in 1..146_097 {
            let (year, month, of_month) = civil(day).unwrap();
            let (y, m, d) = previous;
            let next_day = (year, month, of_month) == (y, m, d + 1) && d < 31;
            let next_month = (year, month, of_month) == (y, m + 1, 1) && d >= 28;
            let next_year = (year, month, of_month) == (y + 1, 1, 1) && (m, d) == (12, 31);
            assert!(next_day || next_month || next_year, "{previous:?}");
            assert_eq!(days_until(year, month, of_month), Some(day));
            previous = (year, month, of_month);
        }
        assert_eq!(previous, (2369, 12, 31));
    }
}
