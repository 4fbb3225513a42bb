//! The part of a bench that is wanted.

use clap::ValueEnum;

use super::contender::Contender;

/// Options of every bench; `S`: its scenarios.
#[derive(clap::Args)]
pub struct Choice<S: ValueEnum + Clone + Send + Sync + 'static> {
    /// Only these contenders.
    #[arg(long, value_enum, value_delimiter = ',')]
    contenders: Vec<Contender>,
    /// Only these scenarios.
    #[arg(long, value_enum, value_delimiter = ',')]
    scenarios: Vec<S>,
}

impl<S: ValueEnum + Clone + PartialEq + Send + Sync + 'static> Choice<S> {
    /// Nothing was left out.
    pub fn is_all(&self) -> bool {
        self.contenders.is_empty() && self.scenarios.is_empty()
    }

    pub fn contenders(&self, all: &'static [Contender]) -> &[Contender] {
        if self.contenders.is_empty() { all } else { &self.contenders }
    }

    pub fn scenarios(&self, all: &'static [S]) -> &[S] {
        if self.scenarios.is_empty() { all } else { &self.scenarios }
    }

    pub fn wants(&self, scenario: S) -> bool {
        self.scenarios.is_empty() || self.scenarios.contains(&scenario)
    }
}
