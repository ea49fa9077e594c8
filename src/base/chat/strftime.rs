//! The date and time as chat templates print it: `strftime_now("%d %b %Y")`, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// The first of January 1970 was a Thursday.
const WEEKDAYS: [&str; 7] =
    ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Now, in a format of `strftime`.
pub(super) fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    strftime(format, now.map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 in a format of `strftime`; what it does not know stays as it is.
fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let month_name = MONTHS.get(month).copied().unwrap_or_default();
    let weekday = usize::try_from(days % 7).ok().and_then(|i| WEEKDAYS.get(i)).copied();
    let weekday = weekday.unwrap_or_default();
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let piece = match characters.next() {
            Some('d') => format!("{day:02}"),
            Some('e') => format!("{day:2}"),
            Some('m') => format!("{:02}", month + 1),
            Some('b') => month_name.get(..3).unwrap_or_default().to_owned(),
            Some('B') => month_name.to_owned(),
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('a') => weekday.get(..3).unwrap_or_default().to_owned(),
            Some('A') => weekday.to_owned(),
            Some('H') => format!("{:02}", second / 3600),
            Some('M') => format!("{:02}", second / 60 % 60),
            Some('S') => format!("{:02}", second % 60),
            Some('%') | None => "%".to_owned(),
            Some(other) => format!("%{other}"),
        };
        text.push_str(&piece);
    }
    text
}

/// Year, month from 0 and day from 1 of the day `days` after the first of January 1970.
fn date(days: u64) -> (u64, usize, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 0;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::strftime;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(strftime("%A %d %b %Y", 0), "Thursday 01 Jan 1970");
        assert_eq!(strftime("%a %e %B %y, %H:%M:%S", 951_782_400), "Tue 29 February 00, 00:00:00");
        assert_eq!(strftime("%Y-%m-%d %% %Q", 1_735_689_599), "2024-12-31 % %Q");
    }
}
