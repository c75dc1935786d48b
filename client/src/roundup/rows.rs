//! What a tracker's PostgreSQL database says about files: the questions that are asked, and their answers.

use super::content::{FileClass, is_file_class, schema_version};
use super::sqlite::Rows;
use super::tracker::Postgres;
use crate::error::Result;
use crate::postgres::Single;
use std::collections::BTreeMap;

/// A statement that asks for more is not worth its length.
const ASKED_MAX: usize = 5000;

pub fn ask(single: &Single<'_>, postgres: &Postgres) -> Result<Rows> {
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for [table, column] in single.ask::<2>(&columns(postgres))? {
        tables.entry(text(&table)).or_default().push(text(&column));
    }
    tables.retain(|_, columns| columns.iter().any(|column| column == "id"));
    let statement = questions(postgres, &tables);
    Ok(collect(single.ask::<2>(&statement)?))
}

/// How many of these rows are there; `None` if they are too many to ask for.
pub fn present(single: &Single<'_>, postgres: &Postgres, class: &str, ids: &[u64]) -> Result<Option<usize>> {
    if ids.len() > ASKED_MAX {
        return Ok(None);
    }
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    let table = qualified(postgres, &format!("_{class}"));
    let statement = format!("SELECT count(*) FROM {table} WHERE id IN ({})", ids.join(", "));
    let answer = single.ask::<1>(&statement)?;
    Ok(answer.first().and_then(|[count]| text(count).parse().ok()))
}

fn columns(postgres: &Postgres) -> String {
    let schema = postgres.schema.as_deref().map_or("current_schema()".into(), literal);
    format!(
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_attribute a ON a.attrelid = c.oid WHERE n.nspname = {schema} AND c.relkind = 'r' AND a.attnum > 0 \
         AND NOT a.attisdropped AND left(c.relname, 1) = '_' AND left(c.relname, 2) <> '__'"
    )
}

/// Asks for everything at once, so that all answers are of one moment: `count`, `schema`, `held CLASS`, `row CLASS`.
fn questions(postgres: &Postgres, tables: &BTreeMap<String, Vec<String>>) -> String {
    let mut parts = vec![format!("SELECT 'schema', schema::text FROM {}", qualified(postgres, "schema"))];
    for (table, columns) in tables {
        let from = qualified(postgres, table);
        parts.push(format!("SELECT 'count', count(*)::text FROM {from}"));
        if is_file_class(columns) {
            let class = table.trim_start_matches('_');
            let (row, held) = (literal(&format!("row {class}")), literal(&format!("held {class}")));
            parts.push(format!("SELECT {row}, id::text FROM {from}"));
            parts.push(format!(
                "SELECT {held}, exists (SELECT 1 FROM (SELECT _content FROM {from} LIMIT 1000) s WHERE _content IS NOT NULL)::text"
            ));
        }
    }
    parts.join(" UNION ALL ")
}

fn collect(answers: Vec<[Vec<u8>; 2]>) -> Rows {
    let mut rows = Rows::default();
    let mut classes: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    let mut held = Vec::new();
    for [about, value] in answers {
        let (about, value) = (text(&about), text(&value));
        match about.split_once(' ') {
            Some(("row", class)) => classes.entry(class.to_owned()).or_default().extend(value.parse::<u64>()),
            Some(("held", class)) if value == "true" => held.push(class.to_owned()),
            None if about == "count" => rows.total += value.parse().unwrap_or(0),
            None if about == "schema" => rows.schema_version = schema_version(&value),
            _ => {}
        }
    }
    // A class of another kind may have properties of the same names; its contents are in the database.
    classes.retain(|class, _| !held.contains(class));
    rows.classes = classes
        .into_iter()
        .map(|(name, mut ids)| {
            ids.sort_unstable();
            FileClass { name, ids }
        })
        .collect();
    rows
}

fn qualified(postgres: &Postgres, table: &str) -> String {
    let table = identifier(table);
    postgres.schema.as_deref().map_or(table.clone(), |schema| format!("{}.{table}", identifier(schema)))
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Without escapes, whatever the server's settings say of backslashes.
fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_rows() {
        let answer = |about: &str, value: &str| [about.as_bytes().to_vec(), value.as_bytes().to_vec()];
        let rows = collect(vec![
            answer("schema", "{'version': 8}"),
            answer("count", "3"),
            answer("count", "4"),
            answer("row msg", "12"),
            answer("row msg", "3"),
            answer("held msg", "false"),
            answer("row page", "1"),
            answer("held page", "true"),
        ]);
        let classes = vec![FileClass { name: "msg".into(), ids: vec![3, 12] }];
        assert_eq!(rows, Rows { schema_version: Some(8), total: 7, classes });
    }

    #[test]
    fn names_are_quoted() {
        let postgres = Postgres { schema: Some("it's \"x\\".into()), ..Postgres::default() };
        assert_eq!(qualified(&postgres, "_msg"), "\"it's \"\"x\\\".\"_msg\"");
        assert!(columns(&postgres).contains("n.nspname = E'it''s \"x\\\\' "));
        assert!(columns(&Postgres::default()).contains("n.nspname = current_schema() "));
    }
}
