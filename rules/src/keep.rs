//! The keys `keep_…` of a configuration file.

use crate::retention::{Count, Policy};
use crate::table::Table;
use crate::units::Stretch;

/// What a table says of retention; a policy that keeps nothing is a mistake. The caller finishes the table with [`HINTS`].
pub fn policy(table: &Table<'_>) -> Policy {
    let policy = Policy {
        last: count(table, "keep_last"),
        hourly: count(table, "keep_hourly"),
        daily: count(table, "keep_daily"),
        weekly: count(table, "keep_weekly"),
        monthly: count(table, "keep_monthly"),
        yearly: count(table, "keep_yearly"),
        within: stretch(table, "keep_within"),
        labels: table.texts("keep_tags").unwrap_or_default().into_iter().map(|tag| tag.value).collect(),
    };
    if policy.is_given() && policy.validate().is_err() {
        table.error("these rules would keep nothing", "at least one must be above 0");
    }
    policy
}

pub const HINTS: [(&str, &str); 3] =
    [("keep_tag", "write `keep_tags`"), ("daily", "write `keep_daily`"), ("weekly", "write `keep_weekly`")];

fn count(table: &Table<'_>, key: &'static str) -> Option<Count> {
    if table.is_text(key) {
        return table.word(key, &[("unlimited", Count::Unlimited)]).map(|count| count.value);
    }
    let number = table.number(key, 0)?;
    match u32::try_from(number.value) {
        Ok(number) => Some(Count::Of(number)),
        Err(_) => Some(Count::Unlimited),
    }
}

fn stretch(table: &Table<'_>, key: &'static str) -> Option<Stretch> {
    let text = table.text(key)?;
    match Stretch::parse(&text.value) {
        Ok(stretch) => Some(stretch),
        Err(_) => {
            let what = format!("`{}` is not a time", text.value);
            let remedy = "write years, months, weeks, days, hours: \"1y6m\", \"14d\" (m is months)";
            table.mistakes.error(text.at, &text.place, what, remedy);
            None
        }
    }
}
