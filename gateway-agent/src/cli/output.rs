//! How commands print: a table for people, JSON or YAML for programs.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::str::FromStr;

use serde::Serialize;

/// The value of `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    #[default]
    Table,
    Json,
    Yaml,
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Output, String> {
        match text {
            "table" => Ok(Output::Table),
            "json" => Ok(Output::Json),
            "yaml" => Ok(Output::Yaml),
            other => Err(format!("\"{other}\" is no output format; use table, json or yaml")),
        }
    }
}

/// A value as JSON or YAML text; `None` for a table, which each command lays out itself.
pub fn structured(value: &impl Serialize, output: Output) -> anyhow::Result<Option<String>> {
    match output {
        Output::Table => Ok(None),
        Output::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
        Output::Yaml => Ok(Some(serde_saphyr::to_string(value)?)),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    #[default]
    None,
    Red,
    Yellow,
    Green,
    Dim,
}

/// A table with aligned columns. Only the last column may be long.
#[derive(Default)]
pub struct Table {
    rows: Vec<Vec<(String, Colour)>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        Table { rows: vec![header.map(|cell| (cell.to_owned(), Colour::Dim)).into()] }
    }

    pub fn row<const N: usize>(&mut self, cells: [(String, Colour); N]) {
        self.rows.push(cells.into());
    }

    /// With colours for a terminal, without for a pipe.
    pub fn render(&self, coloured: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.0.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, colour)) in row.iter().enumerate() {
                let last = column + 1 == row.len();
                let padding = if last { 0 } else { widths[column] + 2 - cell.chars().count() };
                let (start, end) = escape(if coloured { *colour } else { Colour::None });
                _ = write!(line, "{start}{cell}{end}{:padding$}", "");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Whether standard output wants colours (https://no-color.org).
pub fn coloured() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn escape(colour: Colour) -> (&'static str, &'static str) {
    match colour {
        Colour::None => ("", ""),
        Colour::Red => ("\x1b[31m", "\x1b[0m"),
        Colour::Yellow => ("\x1b[33m", "\x1b[0m"),
        Colour::Green => ("\x1b[32m", "\x1b[0m"),
        Colour::Dim => ("\x1b[2m", "\x1b[0m"),
    }
}
