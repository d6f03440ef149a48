//! INTERNALDATE: an instant with the zone it was given in.

use std::fmt;

/// A message's internal date (RFC 9051 §2.3.3), to the second, with the zone offset it is shown in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct InternalDate {
    /// Seconds since 1970-01-01T00:00:00Z; within the years 0000 to 9999.
    unix_seconds: i64,
    /// Minutes east of UTC, -1439..=1439.
    zone_minutes: i16,
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// 0000-01-01T00:00:00Z and 9999-12-31T23:59:59Z with a day's room for zones.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_132_800..=253_402_214_399;

impl InternalDate {
    /// `None` for years that four digits cannot say, or a zone of a day or more.
    pub fn new(unix_seconds: i64, zone_minutes: i16) -> Option<InternalDate> {
        (RANGE.contains(&unix_seconds) && (-1439..=1439).contains(&zone_minutes))
            .then_some(InternalDate { unix_seconds, zone_minutes })
    }

    /// The nearest date that can be shown, in UTC: for clocks and files, which are not a client's mistake.
    pub fn from_unix(unix_seconds: i64) -> InternalDate {
        InternalDate { unix_seconds: unix_seconds.clamp(*RANGE.start(), *RANGE.end()), zone_minutes: 0 }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(self) -> i64 {
        self.unix_seconds
    }

    /// Minutes east of UTC.
    pub fn zone_minutes(self) -> i16 {
        self.zone_minutes
    }

    /// The calendar day in the date's own zone, as days since 1970-01-01: what SEARCH BEFORE, ON and SINCE
    /// compare, "disregarding time and timezone" (RFC 9051 §6.4.4).
    pub fn day(self) -> i64 {
        (self.unix_seconds + i64::from(self.zone_minutes) * 60).div_euclid(86_400)
    }

    /// Reads `date-time` without its quotes: `" 1-Jan-2024 10:00:00 +0100"` (RFC 9051 §9). The day may have
    /// one digit, with or without the space before it.
    pub fn parse(text: &str) -> Option<InternalDate> {
        let mut words = text.split(' ').filter(|word| !word.is_empty());
        let (date, time, zone) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        let days = parse_day(date)?;
        let mut parts = time.split(':');
        let hour = digits(parts.next()?, 2, 23)?;
        let minute = digits(parts.next()?, 2, 59)?;
        // A leap second is shown as the second before it.
        let second = digits(parts.next()?, 2, 60)?.min(59);
        if parts.next().is_some() {
            return None;
        }
        let (sign, zone) = match zone.as_bytes().first()? {
            b'+' => (1, zone.get(1..)?),
            b'-' => (-1, zone.get(1..)?),
            _ => return None,
        };
        if zone.len() != 4 {
            return None;
        }
        let zone = digits(zone.get(..2)?, 2, 23)? * 60 + digits(zone.get(2..)?, 2, 59)?;
        let zone = sign * i16::try_from(zone).ok()?;
        let local = days * 86_400 + i64::from(hour * 3600 + minute * 60 + second);
        InternalDate::new(local - i64::from(zone) * 60, zone)
    }
}

/// Reads `date-text` (`1-Jan-2024`, `01-jan-2024`) as days since 1970-01-01 (RFC 9051 §9).
pub fn parse_day(text: &str) -> Option<i64> {
    let mut parts = text.split('-');
    let (day, month, year) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(1..=2).contains(&day.len()) {
        return None;
    }
    let day = digits(day, day.len(), 31)?;
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as u32 + 1;
    let year = digits(year, 4, 9999)?;
    let days = days_from_civil(i64::from(year), month, day);
    // 31-Feb would come out as a day in March.
    (day >= 1 && civil_from_days(days) == (i64::from(year), month, day)).then_some(days)
}

fn digits(text: &str, len: usize, max: u32) -> Option<u32> {
    if text.len() != len || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|n| *n <= max)
}

/// Days since 1970-01-01 of a day in the proleptic Gregorian calendar.
pub fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = i64::from((month + 9) % 12);
    let day_of_year = (153 * shifted_month + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month (1..=12) and day (1..=31) of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * shifted_month + 2) / 5 + 1) as u32;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 } as u32;
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// `date-time` without quotes, the day padded with a space as RFC 9051's `date-day-fixed` has it.
impl fmt::Display for InternalDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let local = self.unix_seconds + i64::from(self.zone_minutes) * 60;
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        let month = MONTHS.get(month as usize - 1).copied().unwrap_or("Jan");
        let (sign, zone) =
            if self.zone_minutes < 0 { ('-', -self.zone_minutes) } else { ('+', self.zone_minutes) };
        write!(
            f,
            "{day:2}-{month}-{year:04} {:02}:{:02}:{:02} {sign}{:02}{:02}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            zone / 60,
            zone % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_rfcs_example_reads_and_prints() {
        let date = InternalDate::parse("17-Jul-1996 02:44:25 -0700").unwrap();
        assert_eq!(date.unix_seconds(), 837_596_665);
        assert_eq!(date.to_string(), "17-Jul-1996 02:44:25 -0700");
        assert_eq!(InternalDate::parse(" 1-jan-1970 00:00:00 +0000").unwrap().unix_seconds(), 0);
    }

    #[test]
    fn nonsense_is_no_date() {
        for text in [
            "",
            "31-Feb-2024 00:00:00 +0000",
            "1-Jan-24 00:00:00 +0000",
            "1-Jan-2024 24:00:00 +0000",
            "1-Jan-2024 00:00:00 +2400",
            "1-Jan-2024 00:00:00",
            "1-Jan-2024 00:00:00 +00:0",
            "0-Jan-2024 00:00:00 +0000",
        ] {
            assert_eq!(InternalDate::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(seconds in *RANGE.start()..*RANGE.end(), zone in -1439i16..1440) {
            let date = InternalDate::new(seconds, zone).unwrap();
            prop_assert_eq!(InternalDate::parse(&date.to_string()), Some(date));
        }

        #[test]
        fn days_and_dates_agree(day in -719_000i64..2_900_000) {
            let (year, month, dom) = civil_from_days(day);
            prop_assert_eq!(days_from_civil(year, month, dom), day);
        }
    }
}
