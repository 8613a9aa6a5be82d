//! Both ways of a saga on a terminal, one lane above the other: a step stands in the same column in both.

use std::fmt::Write as _;

use crate::cli::output;
use crate::domain::saga_state::StepState;
use crate::runtime::saga_execution::{SagaExecution, StepExecution};

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
/// As many columns as every terminal has, less what stands in front.
const WIDTH: usize = 66;
/// The longest that a name may be.
const NAME: usize = 24;

/// Three lines: the state, the way forward, the way back. Of many steps those around the one that something happens to.
pub(super) fn show(saga: &SagaExecution) -> String {
    let names: Vec<String> = saga
        .steps
        .iter()
        .map(|step| output::plain(&output::cut(&step.name, NAME)))
        .collect();
    let (first, behind) = window(&names, focus(saga));
    let (mut forward, mut back) = (String::new(), String::new());
    if first > 0 {
        write!(forward, "… ").unwrap_or_default();
        write!(back, "  ").unwrap_or_default();
    }
    for (step, name) in saga.steps[first..behind].iter().zip(&names[first..behind]) {
        let width = name.chars().count();
        let has_completed = saga.completed_steps.contains(&step.name);
        let (mark, colour) = forward_mark(step, has_completed);
        write!(forward, "{} {name}  ", paint(colour, mark)).unwrap_or_default();
        match back_mark(step) {
            Some((mark, colour)) => write!(back, "{} {name}  ", paint(colour, mark)),
            None => write!(back, "{}", " ".repeat(width + 4)),
        }
        .unwrap_or_default();
    }
    if behind < names.len() {
        write!(forward, "… {} more", names.len() - behind).unwrap_or_default();
    }
    let done = saga.completed_steps.len();
    let head = format!(
        "saga {}  {}  {done} of {} steps",
        saga.saga_id,
        saga.state,
        saga.steps.len()
    );
    format!(
        "{}\n  {}  {}\n  {}  {}",
        paint(BOLD, &output::plain(&head)),
        paint(DIM, "forward"),
        forward.trim_end(),
        paint(DIM, "back   "),
        back.trim_end()
    )
}

/// The step that something happens to, or last happened to.
fn focus(saga: &SagaExecution) -> usize {
    let is_active = |step: &StepExecution| matches!(step.state, StepState::Running | StepState::Compensating);
    let active = saga.steps.iter().position(is_active);
    active
        .or_else(|| saga.steps.iter().rposition(|step| step.state != StepState::Pending))
        .unwrap_or_default()
}

/// The steps from the first on that fit into a line and have the one that counts among them.
fn window(names: &[String], focus: usize) -> (usize, usize) {
    let width = |name: &String| name.chars().count() + 4;
    let (mut first, mut behind, mut used) = (focus, focus, 0);
    loop {
        let mut has_grown = false;
        if behind < names.len() && used + width(&names[behind]) <= WIDTH {
            used += width(&names[behind]);
            behind += 1;
            has_grown = true;
        }
        if first > 0 && used + width(&names[first - 1]) <= WIDTH {
            used += width(&names[first - 1]);
            first -= 1;
            has_grown = true;
        }
        if !has_grown {
            return (first, behind);
        }
    }
}

const fn forward_mark(step: &StepExecution, has_completed: bool) -> (&'static str, &'static str) {
    if has_completed {
        return ("✓", GREEN);
    }
    match step.state {
        StepState::Pending => ("·", DIM),
        StepState::Running => ("▸", BOLD),
        StepState::Completed => ("✓", GREEN),
        StepState::Failed | StepState::Timeout => ("✗", RED),
        StepState::Cancelled => ("–", DIM),
        // It did not complete, and is undone for what it may have done.
        StepState::Compensating | StepState::Compensated | StepState::CompensationFailed => ("?", RED),
    }
}

const fn back_mark(step: &StepExecution) -> Option<(&'static str, &'static str)> {
    match step.state {
        StepState::Compensating => Some(("▸", BOLD)),
        StepState::Compensated => Some(("↩", YELLOW)),
        StepState::CompensationFailed => Some(("✗", RED)),
        StepState::Pending
        | StepState::Running
        | StepState::Completed
        | StepState::Failed
        | StepState::Timeout
        | StepState::Cancelled => None,
    }
}

fn paint(code: &str, text: &str) -> String {
    format!("\x1b[{code}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_has_the_step_that_counts_and_as_many_others_as_fit() {
        let names: Vec<String> = (0..50).map(|number| format!("step-{number:02}")).collect();

        assert_eq!(window(&names[..3], 0), (0, 3));
        let (first, behind) = window(&names, 20);
        assert!(first <= 20 && 20 < behind, "{first} {behind}");
        assert_eq!(behind - first, WIDTH / 11);
        assert_eq!(window(&names, 49).1, 50);
        assert_eq!(window(&[], 0), (0, 0));
    }
}
