//! `waooaw top`: what waits, runs and fails, on one screen that keeps itself up to date.
//!
//! A [`Reading`](reading::Reading) is taken every second, straight from Redis; the [`screen`] is drawn from it and from the
//! [`history`] of those before. Without a terminal one frame is printed, as plain text or JSON.

mod figures;
mod history;
mod reading;
mod screen;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::history::History;
use self::reading::read;
use self::screen::{Screen, draw, plain};
use super::context::Context;
use super::exit::Failure;
use super::output;
use crate::store::Store;

pub(super) const EXAMPLES: &str = "\
Keys: q quits, p holds the picture and lets it go on.

Examples:
  waooaw top
  waooaw top --interval 0.5
  waooaw top | head -30";

/// What `top` takes.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// How many seconds lie between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "is no number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("must be 0.1 to 3600".to_owned())
    }
}

/// How long one look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited for a key before it is seen whether anybody still listens.
const KEY_LOOK: Duration = Duration::from_millis(100);

/// Shows the screen until somebody quits; without a terminal prints it once.
pub(super) async fn run(context: &Context, args: TopArgs) -> Result<(), Failure> {
    let store = context.store().await?;
    // What is wrong at the start is told like by any other command.
    let first = read(&store).await?;
    if context.is_json() {
        return output::json(&first);
    }
    let mut screen = Screen::new(context.redis_address()?, context.has_color());
    screen.take(first);
    if !std::io::stdout().is_terminal() {
        return print(&screen);
    }
    let told = |problem: std::io::Error| Failure::failed(&format!("can not draw on this terminal: {problem}"));
    let mut terminal = ratatui::try_init().map_err(told)?;
    let outcome = show(
        &mut terminal,
        &store,
        &mut screen,
        Duration::from_secs_f64(args.interval),
    )
    .await;
    ratatui::try_restore().map_err(told)?;
    outcome.map_err(told)
}

/// One frame as text.
fn print(screen: &Screen) -> Result<(), Failure> {
    for line in plain(screen, 100, 40) {
        output::line(&line)?;
    }
    Ok(())
}

/// What somebody typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Quit,
    Hold,
    /// The window has another size.
    Redraw,
}

fn wish_of(event: &Event) -> Option<Wish> {
    if matches!(event, Event::Resize(..)) {
        return Some(Wish::Redraw);
    }
    let key = event.as_key_event().filter(|key| key.kind != KeyEventKind::Release)?;
    let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
    if key.code == KeyCode::Esc {
        return Some(Wish::Quit);
    }
    match key.code.as_char()? {
        'q' => Some(Wish::Quit),
        'c' if has_control => Some(Wish::Quit),
        'p' | ' ' => Some(Wish::Hold),
        _ => None,
    }
}

/// Passes on what is typed until nobody listens.
fn listen(wishes: &mpsc::Sender<Wish>, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let wish = match event::poll(KEY_LOOK) {
            Ok(true) => event::read().ok().as_ref().and_then(wish_of),
            Ok(false) => None,
            // The terminal went away.
            Err(_) => Some(Wish::Quit),
        };
        if let Some(wish) = wish
            && wishes.blocking_send(wish).is_err()
        {
            return;
        }
    }
}

async fn show(
    terminal: &mut ratatui::DefaultTerminal,
    store: &Store,
    screen: &mut Screen,
    interval: Duration,
) -> std::io::Result<()> {
    let (sender, mut wishes) = mpsc::channel(16);
    let is_over = Arc::new(AtomicBool::new(false));
    let listening = {
        let is_over = Arc::clone(&is_over);
        tokio::task::spawn_blocking(move || listen(&sender, &is_over))
    };
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut next = Instant::now() + interval;
    let outcome = loop {
        if let Err(problem) = terminal.draw(|frame| draw(screen, frame)) {
            break Err(problem);
        }
        let look = async {
            tokio::time::sleep_until(next).await;
            tokio::time::timeout(LOOK_PATIENCE, read(store)).await
        };
        tokio::select! {
            wish = wishes.recv() => match wish {
                Some(Wish::Quit) | None => break Ok(()),
                Some(Wish::Hold) => screen.hold(),
                Some(Wish::Redraw) => {}
            },
            _ = end.recv() => break Ok(()),
            found = look, if !screen.is_held() => {
                next = Instant::now() + interval;
                match found {
                    Ok(Ok(reading)) => screen.take(reading),
                    Ok(Err(problem)) => screen.miss(&problem.to_string()),
                    Err(_) => screen.miss("redis does not answer"),
                }
            }
        }
    };
    is_over.store(true, Ordering::Relaxed);
    listening.await.unwrap_or_default();
    outcome
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn few_keys_mean_something() {
        let typed = |code, modifiers| wish_of(&Event::Key(KeyEvent::new(code, modifiers)));

        assert_eq!(typed(KeyCode::Char('q'), KeyModifiers::NONE), Some(Wish::Quit));
        assert_eq!(typed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Wish::Quit));
        assert_eq!(typed(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(typed(KeyCode::Char('p'), KeyModifiers::NONE), Some(Wish::Hold));
        assert_eq!(wish_of(&Event::Resize(80, 24)), Some(Wish::Redraw));
    }

    #[test]
    fn the_time_between_looks_has_bounds() {
        assert_eq!(interval("0.5"), Ok(0.5));
        for refused in ["0", "-1", "NaN", "1e9", "often"] {
            assert!(interval(refused).is_err(), "{refused}");
        }
    }
}
