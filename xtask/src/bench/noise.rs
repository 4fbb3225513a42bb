//! What may have disturbed the measurements, for an honest report.

use anyhow::{Result, ensure};
use serde_json::Value;

#[derive(Default)]
pub struct Noise {
    foreign_cpu: f64,
    failures: Vec<String>,
}

impl Noise {
    /// Looks at the report of a load; too many failures are an error.
    pub fn note(&mut self, what: &str, report: &Value) -> Result<()> {
        let number = |name: &str| report[name].as_f64().unwrap_or(0.0);
        let (units, failed) = (number("units"), number("failed"));
        ensure!(failed <= units * 0.05, "{what}: {failed} failed beside {units} that did not: this is no measurement");
        if failed > 0.0 {
            let how = report["failure"].as_str().map(|how| format!(" (the first: {how})")).unwrap_or_default();
            self.failures.push(format!("{what}: {failed} of {} failed{how}", units + failed));
        }
        self.foreign_cpu = self.foreign_cpu.max(number("foreign_cpu_seconds") / number("seconds"));
        Ok(())
    }

    /// Whether the report of a load is a measurement. One of hundreds that is none does not end a long bench: it is left out,
    /// and the remarks say so.
    pub fn is_measurement(&mut self, what: &str, report: &Value) -> bool {
        let noted = self.note(what, report);
        self.failures.extend(noted.as_ref().err().map(|error| format!("LEFT OUT: {error:#}")));
        noted.is_ok()
    }

    /// For the readers of the report.
    pub fn remarks(self) -> Vec<String> {
        let mut remarks = self.failures;
        let percent = self.foreign_cpu * 100.0;
        remarks.push(match percent < 3.0 {
            true => format!("other processes of the machine used at most {percent:.1}% of a core during a measurement"),
            false => format!(
                "NOISY: other processes used up to {percent:.0}% of a core during a measurement. Their CPU time is not counted, but \
                 rates and latencies suffer; run it again on a quiet machine"
            ),
        });
        remarks
    }
}
