//! Tables: no borders, two spaces between columns, one row per object.

use anstyle::{AnsiColor, Style};

use super::view::View;
use crate::number::Digits;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

/// One column: its heading, alignment and least width.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    heading: &'static str,
    align: Align,
    width: usize,
}

impl Column {
    /// The heading.
    pub(super) const fn heading(&self) -> &'static str {
        self.heading
    }

    /// The alignment.
    pub(super) const fn align(&self) -> Align {
        self.align
    }

    /// Sets the minimum width, which keeps columns aligned in a table written row by row.
    pub(super) const fn at_least(self, width: usize) -> Self {
        Self { width, ..self }
    }
}

/// A left-aligned column.
pub(super) const fn text(heading: &'static str) -> Column {
    Column {
        heading,
        align: Align::Left,
        width: heading.len(),
    }
}

/// A right-aligned column.
pub(super) const fn number(heading: &'static str) -> Column {
    Column {
        heading,
        align: Align::Right,
        width: heading.len(),
    }
}

/// The meaning of a cell, shown as a colour in addition to its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Plain,
    Good,
    Warning,
    Bad,
}

impl Tone {
    /// The terminal style.
    pub(super) const fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warning => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default(),
        }
    }
}

/// One cell.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The meaning.
    pub(super) const fn tone(&self) -> Tone {
        self.tone
    }

    /// A cell whose meaning has a colour.
    pub(super) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// Rows under fixed columns.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// An empty table.
    pub(super) fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            widths: columns.iter().map(|column| column.width).collect(),
            rows: Vec::new(),
        }
    }

    /// Appends a row; it has as many cells as the table has columns.
    pub(super) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.columns.len(), "one cell per column");
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(row);
    }

    /// Takes the lines of the rows so far. Widths are kept, so that a table can be written in parts.
    pub(super) fn take_lines(&mut self, headings: bool, color: bool) -> String {
        let mut lines = String::new();
        if headings {
            let heading: Vec<Cell> = self.columns.iter().map(|c| c.heading.into()).collect();
            self.line(&heading, false, &mut lines);
        }
        for row in std::mem::take(&mut self.rows) {
            self.line(&row, color, &mut lines);
        }
        lines
    }

    /// Pads before it colours: escape sequences have no width.
    fn line(&self, row: &[Cell], color: bool, lines: &mut String) {
        let mut line = String::new();
        for (index, cell) in row.iter().enumerate() {
            let (column, width) = (self.columns[index], self.widths[index]);
            let padding = " ".repeat(width.saturating_sub(cell.text.chars().count()));
            let style = cell.tone.style();
            let painted = if color && cell.tone != Tone::Plain {
                format!("{style}{}{style:#}", cell.text)
            } else {
                cell.text.clone()
            };
            if index > 0 {
                line.push_str("  ");
            }
            match column.align {
                Align::Left => line.extend([painted, padding]),
                Align::Right => line.extend([padding, painted]),
            }
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
}

/// A table that is written in parts, its headings with the first one.
#[derive(Debug)]
pub(super) struct Listing {
    table: Table,
    view: View,
    headings: bool,
}

impl Listing {
    /// An empty table; wide views have the columns of `wide`, too.
    pub(super) fn new(columns: &[Column], wide: &[Column], view: View) -> Self {
        let wide = if view.wide() { wide } else { &[] };
        Self {
            table: Table::new(&[columns, wide].concat()),
            view,
            headings: view.headings,
        }
    }

    /// The format of numbers.
    pub(super) const fn digits(&self) -> Digits {
        self.view.digits
    }

    /// Appends a row; only wide views have the cells of `wide`.
    pub(super) fn push(&mut self, mut row: Vec<Cell>, wide: Vec<Cell>) {
        if self.view.wide() {
            row.extend(wide);
        }
        self.table.push(row);
    }

    /// The rows since the last call; the first call has the headings.
    pub(super) fn take_lines(&mut self) -> String {
        let headings = std::mem::take(&mut self.headings);
        self.table.take_lines(headings, self.view.color)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[text("NAME"), number("FLOWS"), text("STATE")]);
        table.push(vec![
            "finance".into(),
            "41.2k".into(),
            Cell::toned("ok", Tone::Good),
        ]);
        table.push(vec!["dns".into(), "7".into(), Cell::toned("down", Tone::Bad)]);
        table
    }

    #[test]
    fn columns_are_aligned_without_trailing_space() {
        assert_eq!(
            table().take_lines(true, false),
            "NAME     FLOWS  STATE\nfinance  41.2k  ok\ndns          7  down\n"
        );
    }

    #[test]
    fn colour_does_not_change_the_layout() {
        let painted = table().take_lines(false, true);
        assert_eq!(
            painted,
            "finance  41.2k  \u{1b}[32mok\u{1b}[0m\ndns          7  \u{1b}[31mdown\u{1b}[0m\n"
        );
    }

    #[test]
    fn a_table_in_parts_keeps_its_widths() {
        let mut table = table();
        let first = table.take_lines(true, false);
        table.push(vec!["x".into(), "1".into(), "ok".into()]);
        let second = table.take_lines(false, false);
        assert!(first.starts_with("NAME     FLOWS"));
        assert_eq!(second, "x            1  ok\n");
    }
}
