//! Whether what happened is one of the answers that a case has for safe.

use std::fmt::{self, Write};

use super::client::Answers;
use super::corpus::{Case, Expected, Sent, Wanted};
use super::recorder::{Event, Request};

/// What happened.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    answers: Answers,
    requests: Vec<Request>,
    violations: Vec<String>,
    bystander: Result<(), String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As the case has it.
    Wanted,
    /// In another way, but nothing reached the backend that should not have.
    Other,
    /// A request reached the backend that was to be refused. By itself it harms nobody: it does where the next one reads the same in another way.
    Taken,
    /// The backend got a request that was hidden in another, or what is no plain HTTP, or somebody got another's answer.
    Unsafe,
}

pub fn judge(
    case: &Case,
    answers: Answers,
    seen: Vec<Event>,
    mut bystander: Result<(), String>,
    seen_then: Vec<Event>,
) -> Outcome {
    let (mut requests, mut violations) = (Vec::new(), Vec::new());
    for event in seen {
        match event {
            Event::Request(request) => requests.push(request),
            Event::Violation(what) => violations.push(what),
        }
    }
    // A request that the case left behind may still have come; the bystander's own is the one that may be there.
    for event in seen_then {
        match event {
            Event::Request(request) if request.target == b"/bystander" && request.body.is_empty() => {}
            Event::Request(request) => requests.push(request),
            Event::Violation(what) if bystander.is_ok() => bystander = Err(what),
            Event::Violation(_) => {}
        }
    }
    let as_wanted = case.wanted.iter().any(|sequence| holds(case, sequence, &answers, &requests));
    let most = case.wanted.iter().map(|sequence| forwarded(sequence).count()).max().unwrap_or_default();
    // By its name.
    let hidden = |request: &Request| request.target.starts_with(b"/smuggled");
    let verdict = if !violations.is_empty() || bystander.is_err() || requests.iter().any(hidden) {
        Verdict::Unsafe
    } else if as_wanted {
        Verdict::Wanted
    } else if requests.len() > most {
        Verdict::Taken
    } else {
        Verdict::Other
    };
    Outcome { verdict, answers, requests, violations, bystander }
}

fn forwarded(sequence: &[Wanted]) -> impl Iterator<Item = &Expected> {
    sequence.iter().filter_map(|item| match item {
        Wanted::Forwarded(expected) => Some(expected),
        _ => None,
    })
}

fn holds(case: &Case, sequence: &[Wanted], answers: &Answers, requests: &[Request]) -> bool {
    let expected: Vec<&Expected> = forwarded(sequence).collect();
    if expected.len() != requests.len()
        || !expected.iter().zip(requests).all(|(expected, request)| is(expected, request))
    {
        return false;
    }
    let mut statuses = answers.statuses.iter().copied();
    for item in sequence {
        let holds = match item {
            Wanted::Forwarded(_) => statuses.next() == Some(200),
            Wanted::Answered(of) => statuses.next().is_some_and(|status| of.contains(&status)),
            // 0: a stream of HTTP/2 that was reset.
            Wanted::Refused(of) => match statuses.next() {
                Some(0) => true,
                Some(status) => of.contains(&status) && answers.closed,
                None => false,
            },
            Wanted::Aborted => match statuses.next() {
                Some(0) => true,
                // Of HTTP/2 only the stream ends.
                Some(status) => status >= 400 && (answers.closed || matches!(case.sent, Sent::H2(_))),
                None => answers.closed,
            },
            Wanted::Closed => answers.closed,
        };
        if !holds {
            return false;
        }
    }
    statuses.next().is_none()
}

fn is(expected: &Expected, request: &Request) -> bool {
    let value = |wanted: &[u8]| request.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| &value[..]);
    let headers =
        |(name, wanted): &(Vec<u8>, Option<Vec<u8>>)| value(name) == wanted.as_deref().map(<[u8]>::trim_ascii);
    (&expected.method, &expected.target, &expected.body) == (&request.method, &request.target, &request.body)
        && expected.headers.iter().all(headers)
}

/// In a few words.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        for request in &self.requests {
            let target = super::bytes::shown(&request.target);
            words.push(format!("→ {} {target} {}B", super::bytes::shown(&request.method), request.body.len()));
        }
        if !self.answers.statuses.is_empty() {
            let statuses: Vec<String> = self
                .answers
                .statuses
                .iter()
                .map(|status| match status {
                    0 => "reset".to_owned(),
                    status => status.to_string(),
                })
                .collect();
            words.push(statuses.join(" "));
        }
        words.extend(self.violations.iter().map(|what| format!("PASSED ON {what}")));
        if let Err(got) = &self.bystander {
            words.push(format!("A BYSTANDER GOT {got:?}"));
        }
        if self.answers.closed {
            words.push("closed".to_owned());
        } else if words.is_empty() {
            f.write_str("nothing")?;
        }
        for (i, word) in words.iter().enumerate() {
            if i > 0 {
                f.write_char(' ')?;
            }
            f.write_str(word)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str) -> Request {
        Request {
            method: b"GET".into(),
            target: target.into(),
            headers: vec![(b"x".into(), b"y".into())],
            body: Vec::new(),
        }
    }

    fn expected(target: &str) -> Wanted {
        Wanted::Forwarded(Expected { method: b"GET".into(), target: target.into(), ..Expected::default() })
    }

    fn verdict(wanted: Vec<Wanted>, statuses: &[u16], closed: bool, requests: Vec<Request>) -> Verdict {
        let case = Case { wanted: vec![wanted], ..Case::default() };
        let seen = requests.into_iter().map(Event::Request).collect();
        judge(&case, Answers { statuses: statuses.to_vec(), closed }, seen, Ok(()), Vec::new()).verdict
    }

    #[test]
    fn what_is_wanted_is_told_from_what_is_not() {
        let refused = || vec![expected("/a"), Wanted::Refused(vec![400])];
        assert_eq!(verdict(refused(), &[200, 400], true, vec![request("/a")]), Verdict::Wanted);
        assert_eq!(verdict(refused(), &[200, 400], false, vec![request("/a")]), Verdict::Other);
        assert_eq!(verdict(refused(), &[200, 404], true, vec![request("/a")]), Verdict::Other);
        assert_eq!(verdict(refused(), &[200], true, vec![request("/a")]), Verdict::Other);
        assert_eq!(verdict(refused(), &[200, 400], true, vec![request("/b")]), Verdict::Other);
        assert_eq!(verdict(refused(), &[200, 200], true, vec![request("/a"), request("/b")]), Verdict::Taken);
        assert_eq!(verdict(vec![Wanted::Aborted], &[], true, vec![]), Verdict::Wanted);
        assert_eq!(verdict(vec![Wanted::Aborted], &[], false, vec![]), Verdict::Other);
        assert_eq!(verdict(vec![Wanted::Aborted], &[200], true, vec![]), Verdict::Other);
    }

    #[test]
    fn who_harms_others_is_unsafe() {
        let case = Case { wanted: vec![vec![Wanted::Closed]], ..Case::default() };
        let closed = Answers { statuses: Vec::new(), closed: true };
        let of = |seen, bystander, then| judge(&case, closed.clone(), seen, bystander, then).verdict;
        assert_eq!(of(vec![], Ok(()), vec![Event::Request(request("/bystander"))]), Verdict::Wanted);
        assert_eq!(of(vec![], Err("another's".to_owned()), vec![]), Verdict::Unsafe);
        assert_eq!(of(vec![Event::Violation("x".to_owned())], Ok(()), vec![]), Verdict::Unsafe);
        assert_eq!(of(vec![], Ok(()), vec![Event::Request(request("/smuggled"))]), Verdict::Unsafe);
    }

    #[test]
    fn headers_are_compared() {
        let with = |name: &str, value: Option<&str>| {
            let headers = vec![(name.into(), value.map(Into::into))];
            vec![Wanted::Forwarded(Expected { method: b"GET".into(), target: b"/a".into(), body: Vec::new(), headers })]
        };
        let verdict = |wanted| verdict(wanted, &[200], false, vec![request("/a")]);
        assert_eq!(verdict(with("x", Some("y"))), Verdict::Wanted);
        assert_eq!(verdict(with("x", None)), Verdict::Other);
        assert_eq!(verdict(with("x", Some("z"))), Verdict::Other);
        assert_eq!(verdict(with("z", None)), Verdict::Wanted);
    }
}
