//! The session strings of TradingView's charting library ("Trading sessions").

/// Whether this is a session: `24x7`; or hours as `0930-1600`, several of a day after a comma
/// (`0930-1400,1430-1700`), with their days after a colon (`:23456`, 1 is Sunday), stretches with
/// other hours after a bar (`0900-1630|0900-1400:2`), a time of an earlier day with `F` and how many
/// days (`1715F3-0300F2`), and the first day of the week before or behind a semicolon (`1;…`, `…;6`).
pub fn is_session(text: &str) -> bool {
    if text == "24x7" {
        return true;
    }
    let stretches = match text.split_once(';') {
        Some((day, rest)) if is_day(day) => rest,
        Some((rest, day)) if is_day(day) => rest,
        Some(_) => return false,
        None => text,
    };
    stretches.split('|').all(is_stretch)
}

fn is_day(text: &str) -> bool {
    matches!(text.as_bytes(), [b'1'..=b'7'])
}

fn is_stretch(text: &str) -> bool {
    let (hours, days) = match text.split_once(':') {
        Some((hours, days)) => (hours, Some(days)),
        None => (text, None),
    };
    let days_fit = days.is_none_or(|days| {
        let mut seen: Vec<u8> = days.bytes().collect();
        seen.sort_unstable();
        seen.dedup();
        !days.is_empty()
            && seen.len() == days.len()
            && days.bytes().all(|day| (b'1'..=b'7').contains(&day))
    });
    days_fit && hours.split(',').all(is_span)
}

fn is_span(text: &str) -> bool {
    text.split_once('-')
        .is_some_and(|(from, to)| is_time(from) && is_time(to))
}

fn is_time(text: &str) -> bool {
    let (time, earlier) = match text.split_once('F') {
        Some((time, days)) => (time, days.as_bytes()),
        None => (text, b"".as_slice()),
    };
    let digits = time.len() == 4 && time.bytes().all(|byte| byte.is_ascii_digit());
    let number = time.parse::<u16>().unwrap_or(u16::MAX);
    // 2400 ends a day.
    let in_day = (number / 100 < 24 && number % 100 < 60) || number == 2_400;
    digits && in_day && matches!(earlier, [] | [b'1'..=b'9'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_of_the_documentation() {
        for session in [
            "24x7",
            "0930-1600",
            "0000-2400:23456",
            "1700-0900",
            "0930-1400,1430-1700",
            "0900-1630|0900-1400:2",
            "0900-1630|0900-1400:23",
            "1;0900-1630|0900-1400:2",
            "0900-1630|0900-1400:2;6",
            "2200-2200:3456|1700F-2200:2",
            "1715F-0300,0915-1200,1300-1630:3456|1715F3-0300F2,0915-1200,1300-1630:2",
        ] {
            assert!(is_session(session), "{session}");
        }
    }

    #[test]
    fn what_is_no_session() {
        for text in [
            "",
            "24X7",
            "9:30-16:00",
            "930-1600",
            "0930",
            "0930-",
            "0960-1600",
            "2401-1600",
            "2500-1600",
            "0930-1600:",
            "0930-1600:8",
            "0930-1600:0",
            "0930-1600:22",
            "0930-1600|",
            "0930-1600,",
            "0930-1600;",
            "0930-1600;8",
            "1;2;0930-1600",
            "0930G-1600",
            "0930F0-1600",
            "+930-1600",
            "０９３０-1600",
        ] {
            assert!(!is_session(text), "{text}");
        }
    }
}
