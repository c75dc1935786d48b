//! Columns of text: two spaces between them, nothing drawn, so that they can be cut by other programs. Pure.

/// `true` aligns a column to the right.
pub struct Table {
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(columns: &[(&'static str, bool)]) -> Table {
        Table { columns: columns.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Lines without trailing spaces. `bold` puts the headings in bold type.
    pub fn lines(&self, bold: bool) -> Vec<String> {
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(at, column)| self.width(at, column.0)).collect();
        let line = |cells: &[&str]| -> String {
            let mut text = String::new();
            for ((cell, width), (_, right)) in cells.iter().zip(&widths).zip(&self.columns) {
                let padding = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right { (padding.as_str(), "") } else { ("", padding.as_str()) };
                text.push_str(&format!("{before}{cell}{after}  "));
            }
            text.truncate(text.trim_end().len());
            text
        };
        let headings: Vec<&str> = self.columns.iter().map(|column| column.0).collect();
        let headings = line(&headings);
        let mut lines = vec![if bold { format!("\x1b[1m{headings}\x1b[0m") } else { headings }];
        lines.extend(self.rows.iter().map(|row| line(&row.iter().map(String::as_str).collect::<Vec<_>>())));
        lines
    }

    fn width(&self, column: usize, heading: &str) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(heading.chars().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("NAME", false), ("SIZE", true), ("NOTE", false)]);
        table.row(vec!["été".into(), "7".into(), String::new()]);
        table.row(vec!["longer".into(), "12345".into(), "x".into()]);
        assert_eq!(table.lines(false), ["NAME     SIZE  NOTE", "été         7", "longer  12345  x"]);
        assert_eq!(table.lines(true)[0], "\x1b[1mNAME     SIZE  NOTE\x1b[0m");
    }
}
