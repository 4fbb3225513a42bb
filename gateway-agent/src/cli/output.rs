//! How commands print: a table for people, JSON or YAML for programs.

#![forbid(unsafe_code)]

use clap::ValueEnum;
use serde::Serialize;
use tabled::settings::{Color, Padding, Style};

/// The value of `--output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
    Yaml,
}

/// A value as JSON or YAML text; `None` for a table, which each command lays out itself.
pub fn structured(value: &impl Serialize, output: Output) -> anyhow::Result<Option<String>> {
    match output {
        Output::Table => Ok(None),
        Output::Json => Ok(Some(serde_json::to_string_pretty(value)? + "\n")),
        Output::Yaml => Ok(Some(serde_saphyr::to_string(value)?)),
    }
}

/// A cell in a colour, if colours are wanted.
pub fn paint(text: &str, colour: Color, coloured: bool) -> String {
    if coloured { colour.colorize(text) } else { text.to_owned() }
}

/// Aligned columns without lines around them.
pub fn aligned(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut builder = tabled::builder::Builder::default();
    for row in rows {
        builder.push_record(row);
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 2, 0, 0));
    let text = table.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.join("\n") + "\n"
}

/// Whether standard output wants colours (https://no-color.org).
pub fn coloured() -> bool {
    use std::io::IsTerminal;
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Prints the result of a command. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> anyhow::Result<std::process::ExitCode> {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(std::process::ExitCode::SUCCESS),
    }
}
