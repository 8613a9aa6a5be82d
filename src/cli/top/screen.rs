//! Draws the screen: counts and depth by priority, throughput, queues, replicas, tasks that run, recent failures.
//!
//! Whatever is drawn is cut to the room that there is; a small window shows fewer rows of each list and never none.

use std::time::{Duration, Instant};

use ratatui::Frame;
use ratatui::backend::TestBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::border;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Padding, Paragraph, Row, Sparkline, Table};

use super::History;
use super::figures::{bar, grouped, limit_text, meter, span_text};
use super::reading::{QueueLine, Reading, ReplicaLine};

/// Over which time the part of failures is shown.
const FAILING_SPAN: Duration = Duration::from_secs(60);

/// A window with fewer columns shows fewer of each table.
const WIDE: u16 = 96;
/// The same for a table beside another.
const HALF: u16 = 52;

/// What is shown.
pub(super) struct Screen {
    address: String,
    has_color: bool,
    began: Instant,
    reading: Reading,
    taken: Instant,
    history: History,
    is_held: bool,
    /// Why the last look saw nothing.
    problem: Option<String>,
}

impl Screen {
    /// Nothing seen yet of the Redis at this address.
    pub(super) fn new(address: String, has_color: bool) -> Self {
        let now = Instant::now();
        Self {
            address,
            has_color,
            began: now,
            reading: Reading::default(),
            taken: now,
            history: History::default(),
            is_held: false,
            problem: None,
        }
    }

    /// Takes in a look.
    pub(super) fn take(&mut self, reading: Reading) {
        self.taken = Instant::now();
        self.take_at(reading, self.taken - self.began);
    }

    fn take_at(&mut self, reading: Reading, at: Duration) {
        self.history.note(at, reading.ended, reading.failed);
        self.reading = reading;
        self.problem = None;
    }

    /// A look saw nothing.
    pub(super) fn miss(&mut self, problem: &str) {
        self.problem = Some(problem.to_owned());
    }

    /// Holds the picture, or lets it go on.
    pub(super) fn hold(&mut self) {
        self.is_held = !self.is_held;
    }

    /// Whether the picture is held.
    pub(super) fn is_held(&self) -> bool {
        self.is_held
    }

    fn style(&self, color: Color) -> Style {
        if self.has_color {
            Style::new().fg(color)
        } else {
            Style::new()
        }
    }

    fn bold(&self, color: Color) -> Style {
        self.style(color).add_modifier(Modifier::BOLD)
    }

    fn dim(&self) -> Style {
        self.style(Color::DarkGray)
    }

    fn block(&self, title: &str) -> Block<'static> {
        Block::new()
            .borders(Borders::ALL)
            .border_set(border::ROUNDED)
            .border_style(self.dim())
            .title(Span::styled(format!(" {title} "), self.bold(Color::Cyan)))
    }

    fn table_block(&self, title: &str) -> Block<'static> {
        self.block(title).padding(Padding::horizontal(1))
    }
}

/// The colours of the priorities, the highest first.
const PRIORITY_COLORS: [Color; 4] = [Color::LightRed, Color::Cyan, Color::Blue, Color::Gray];

/// Draws everything.
pub(super) fn draw(screen: &Screen, frame: &mut Frame<'_>) {
    let reading = &screen.reading;
    let area = frame.area();
    let rows = |count: usize| u16::try_from(count).unwrap_or(u16::MAX).saturating_add(3);
    // The lists get what they need, as far as there is room.
    let pools = rows(reading.queues.len().max(reading.replicas.len())).clamp(4, (area.height / 4).max(4));
    let [head, top, middle, tasks, failures, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(8),
        Constraint::Length(pools),
        Constraint::Fill(3),
        Constraint::Fill(2),
        Constraint::Length(1),
    ])
    .areas(area);
    draw_head(screen, frame, head);
    let [counts, throughput] = Layout::horizontal([Constraint::Length(46), Constraint::Fill(1)]).areas(top);
    draw_counts(screen, frame, counts);
    draw_throughput(screen, frame, throughput);
    let [queues, replicas] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)]).areas(middle);
    draw_queues(screen, frame, queues);
    draw_replicas(screen, frame, replicas);
    draw_tasks(screen, frame, tasks);
    draw_failures(screen, frame, failures);
    draw_foot(screen, frame, foot);
}

fn draw_head(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let reading = &screen.reading;
    let replicas = reading.replicas.len();
    let mut spans = vec![
        Span::styled(
            " waooaw top ",
            screen.bold(Color::Cyan).add_modifier(Modifier::REVERSED),
        ),
        Span::raw(format!(
            "  {}   {replicas} {}   ",
            screen.address,
            if replicas == 1 { "replica" } else { "replicas" }
        )),
    ];
    if screen.is_held {
        spans.push(Span::styled(
            " HELD ",
            screen.bold(Color::Yellow).add_modifier(Modifier::REVERSED),
        ));
    } else if let Some(problem) = &screen.problem {
        let text = format!(
            " {problem}, seen {} ago ",
            span_text(screen.taken.elapsed().as_secs_f64())
        );
        spans.push(Span::styled(
            text,
            screen.bold(Color::LightRed).add_modifier(Modifier::REVERSED),
        ));
    }
    frame.render_widget(Line::from(spans), area);
    let time = reading.taken_at.get(11..19).unwrap_or_default();
    frame.render_widget(Line::styled(format!("{time} UTC "), screen.dim()).right_aligned(), area);
}

fn draw_counts(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let reading = &screen.reading;
    let block = screen.block("tasks");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let most = reading.by_priority.iter().map(|(_, count)| *count).max().unwrap_or(0);
    let room = usize::from(inside.width).saturating_sub(22);
    let mut lines = Vec::new();
    for ((name, count), color) in reading.by_priority.iter().zip(PRIORITY_COLORS) {
        lines.push(Line::from(vec![
            Span::styled(format!(" {:<10}", name.to_lowercase()), screen.style(color)),
            Span::styled(
                format!("{:>9} ", grouped(*count)),
                Style::new().add_modifier(Modifier::BOLD),
            ),
            Span::styled(bar(*count, most, room), screen.style(color)),
        ]));
    }
    let pending = format!(" {:<10}{:>9} ", "pending", grouped(reading.pending));
    let notes = format!("{} ready, {}", grouped(reading.ready), limit_text(reading.max_size));
    lines.push(Line::from(vec![Span::raw(pending), Span::styled(notes, screen.dim())]));
    let running = format!(" {:<10}{:>9} ", "running", grouped(reading.running));
    let notes = if reading.max_running == 0 {
        format!("{:.0} % of the workers", reading.utilization_percentage)
    } else {
        limit_text(reading.max_running)
    };
    lines.push(Line::from(vec![
        Span::styled(running, screen.bold(Color::Green)),
        Span::styled(notes, screen.dim()),
    ]));
    frame.render_widget(Paragraph::new(lines), inside);
}

fn draw_throughput(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let reading = &screen.reading;
    let block = screen.block("throughput");
    let inside = block.inner(area);
    frame.render_widget(block, area);
    let [numbers, chart] = Layout::vertical([Constraint::Length(2), Constraint::Fill(1)]).areas(inside);
    let now = screen
        .history
        .now()
        .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let failing = screen.history.failing(FAILING_SPAN);
    let failing_style = match failing {
        Some(part) if part > 0.05 => screen.bold(Color::LightRed),
        Some(_) | None => Style::new(),
    };
    let failing = failing.map_or_else(|| "-".to_owned(), |part| format!("{:.1} %", part * 100.0));
    let waiting_style = if reading.oldest_waiting_seconds > 60.0 {
        screen.bold(Color::Yellow)
    } else {
        Style::new()
    };
    let average = reading
        .average_duration_seconds
        .map_or_else(|| "-".to_owned(), span_text);
    let is_wide = area.width >= HALF;
    let mut first = vec![Span::styled(format!(" {now}/s"), screen.bold(Color::Green))];
    if is_wide {
        first.push(Span::raw(format!("   {}/min", grouped(reading.ended_per_minute))));
    }
    first.extend([Span::raw("   failing "), Span::styled(failing, failing_style)]);
    if is_wide {
        first.push(Span::raw(format!("   average {average}")));
    }
    let mut second = vec![
        Span::raw(" oldest "),
        Span::styled(span_text(reading.oldest_waiting_seconds), waiting_style),
    ];
    if is_wide {
        second.push(Span::raw(format!("   triggers {}", grouped(reading.triggers_waiting))));
    }
    second.push(Span::styled(
        format!("   dead letters {}", grouped(reading.dead_letters)),
        if reading.dead_letters > 0 {
            screen.style(Color::Yellow)
        } else {
            Style::new()
        },
    ));
    let (first, second) = (Line::from(first), Line::from(second));
    frame.render_widget(Paragraph::new(vec![first, second]), numbers);
    let width = usize::from(chart.width.saturating_sub(2));
    let mut rates: Vec<u64> = screen.history.rates(width).map(tenths).collect();
    // The latest stands at the right edge from the first look on.
    let missing = width.saturating_sub(rates.len());
    rates.splice(0..0, std::iter::repeat_n(0, missing));
    let sparkline = Sparkline::default().data(rates).style(screen.style(Color::Green));
    let inner = Rect {
        x: chart.x + 1,
        width: chart.width.saturating_sub(2),
        ..chart
    };
    frame.render_widget(sparkline, inner);
}

/// Rates below one a second shall not vanish.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is a small number above zero"
)]
fn tenths(rate: f64) -> u64 {
    (rate * 10.0).round() as u64
}

fn header(screen: &Screen, names: &[&'static str]) -> Row<'static> {
    let cells = names.iter().map(|name| Cell::from(*name));
    Row::new(cells.collect::<Vec<_>>()).style(screen.dim())
}

fn number(count: u64) -> Cell<'static> {
    Cell::from(Line::raw(grouped(count)).right_aligned())
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::raw(text).right_aligned())
}

fn draw_queues(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let mut queues: Vec<&QueueLine> = screen.reading.queues.iter().collect();
    // What has most to do first; what has nothing in the order of names.
    queues.sort_by_key(|queue| std::cmp::Reverse(queue.pending_count + queue.running_count));
    let is_wide = area.width >= HALF;
    let rows = queues.iter().map(|queue| {
        let mut cells = vec![Cell::from(queue.name.clone())];
        if is_wide {
            for ((_, count), color) in priorities(queue).into_iter().zip(PRIORITY_COLORS) {
                let style = if count > 0 { screen.style(color) } else { screen.dim() };
                cells.push(number(count).style(style));
            }
        } else {
            cells.push(number(queue.pending_count));
        }
        cells.push(number(queue.running_count));
        cells.push(if queue.paused {
            Cell::from("paused").style(screen.bold(Color::Yellow))
        } else {
            let waits = queue.oldest_waiting_seconds.map_or_else(String::new, span_text);
            right(waits)
        });
        Row::new(cells)
    });
    let counts = if is_wide { 4 } else { 1 };
    let mut widths = vec![Constraint::Fill(1)];
    widths.extend(std::iter::repeat_n(Constraint::Length(7), counts + 2));
    let names: &[&'static str] = if is_wide {
        &[
            "queue", "   high", " normal", "    low", "  backg", "running", " oldest",
        ]
    } else {
        &["queue", "pending", "running", " oldest"]
    };
    let table = Table::new(rows, widths)
        .header(header(screen, names))
        .block(screen.table_block("queues"));
    frame.render_widget(table, area);
}

/// What waits in a queue, the highest priority first.
fn priorities(queue: &QueueLine) -> [(&'static str, u64); 4] {
    crate::domain::priority::Priority::ALL.map(|priority| {
        let count = queue.by_priority.get(priority.as_str());
        (priority.as_str(), count.copied().unwrap_or_default())
    })
}

fn draw_replicas(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let room = usize::from(area.width).saturating_sub(4 + 10 + 1 + 7 + 1 + 8 + 1);
    let rows = screen.reading.replicas.iter().map(|replica: &ReplicaLine| {
        let all = u64::from(replica.workers).max(replica.busy as u64);
        let color = if replica.failing > 0 {
            Color::LightRed
        } else {
            Color::Green
        };
        let state = match (replica.is_draining, replica.failing) {
            (true, _) => Cell::from("draining").style(screen.style(Color::Yellow)),
            (false, 0) => Cell::from(""),
            (false, failing) => Cell::from(format!("{failing} ERROR")).style(screen.style(Color::LightRed)),
        };
        Row::new(vec![
            Cell::from(replica.replica.clone()),
            right(format!("{}/{}", replica.busy, replica.workers)),
            Cell::from(meter(replica.busy as u64, all, room)).style(screen.style(color)),
            state,
        ])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(7),
        Constraint::Fill(1),
        Constraint::Length(8),
    ];
    let table = Table::new(rows, widths)
        .header(header(screen, &["replica", "   busy", "", ""]))
        .block(screen.table_block("workers"));
    frame.render_widget(table, area);
}

fn draw_tasks(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let is_wide = area.width >= WIDE;
    let rows = screen.reading.tasks.iter().map(|task| {
        let mut cells = vec![
            Cell::from(task.task_name.clone()).style(Style::new().add_modifier(Modifier::BOLD)),
            Cell::from(task.task_id.clone()).style(screen.dim()),
        ];
        if is_wide {
            cells.push(Cell::from(task.priority.to_lowercase()));
            cells.push(Cell::from(task.worker.clone()));
        }
        cells.push(right(task.attempt.to_string()));
        let seconds = right(span_text(task.seconds));
        cells.push(if task.seconds > 30.0 {
            seconds.style(screen.bold(Color::Yellow))
        } else {
            seconds
        });
        Row::new(cells)
    });
    let mut widths = vec![Constraint::Fill(1), Constraint::Length(36)];
    let mut names = vec!["task", "id"];
    if is_wide {
        widths.extend([Constraint::Length(10), Constraint::Length(16)]);
        names.extend(["priority", "worker"]);
    }
    widths.extend([Constraint::Length(3), Constraint::Length(7)]);
    names.extend(["try", "    for"]);
    let table = Table::new(rows, widths)
        .header(header(screen, &names))
        .block(screen.table_block("running, the longest first"));
    frame.render_widget(table, area);
}

fn draw_failures(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let rows = screen.reading.failures.iter().map(|failure| {
        Row::new(vec![
            right(span_text(failure.seconds_ago)),
            Cell::from(failure.task_name.clone().unwrap_or_else(|| failure.kind.clone())),
            Cell::from(failure.reason.clone()).style(screen.style(Color::LightRed)),
            Cell::from(failure.message.replace(char::is_control, " ")),
        ])
    });
    let widths = [
        Constraint::Length(7),
        Constraint::Length(18),
        Constraint::Length(16),
        Constraint::Fill(1),
    ];
    let table = Table::new(rows, widths)
        .header(header(screen, &["    ago", "task", "reason", "error"]))
        .block(screen.table_block("failed for good, the latest first"));
    frame.render_widget(table, area);
}

fn draw_foot(screen: &Screen, frame: &mut Frame<'_>, area: Rect) {
    let key = |name: &'static str| Span::styled(name, screen.bold(Color::Cyan));
    let line = Line::from(vec![
        Span::raw(" "),
        key("q"),
        Span::styled(" quit   ", screen.dim()),
        key("p"),
        Span::styled(
            if screen.is_held { " go on" } else { " hold the picture" },
            screen.dim(),
        ),
    ]);
    frame.render_widget(line, area);
}

/// One frame as lines of text, without what is empty at their ends.
pub(super) fn plain(screen: &Screen, width: u16, height: u16) -> Vec<String> {
    let Ok(mut terminal) = ratatui::Terminal::new(TestBackend::new(width, height));
    let Ok(_drawn) = terminal.draw(|frame| draw(screen, frame));
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width));
    let text = |cells: &[ratatui::buffer::Cell]| {
        let line: String = cells.iter().map(ratatui::buffer::Cell::symbol).collect();
        line.trim_end().to_owned()
    };
    lines.map(text).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::reading::{FailureLine, TaskLine};
    use super::*;

    fn reading() -> Reading {
        Reading {
            taken_at: "2026-11-28T12:04:05.000Z".to_owned(),
            pending: 1204,
            ready: 1150,
            running: 15,
            ended: 10_000,
            failed: 40,
            ended_per_minute: 24_680,
            average_duration_seconds: Some(0.042),
            max_size: 10_000,
            dead_letters: 2,
            triggers_waiting: 3,
            oldest_waiting_seconds: 2.5,
            utilization_percentage: 75.0,
            by_priority: vec![("HIGH", 4), ("NORMAL", 1000), ("LOW", 200), ("BACKGROUND", 0)],
            queues: vec![
                QueueLine {
                    name: "default".to_owned(),
                    pending_count: 1200,
                    running_count: 15,
                    by_priority: BTreeMap::from([("HIGH", 4), ("NORMAL", 1000), ("LOW", 196)]),
                    paused: false,
                    oldest_waiting_seconds: Some(2.5),
                },
                QueueLine {
                    name: "mail".to_owned(),
                    pending_count: 4,
                    by_priority: BTreeMap::from([("LOW", 4)]),
                    paused: true,
                    ..QueueLine::default()
                },
            ],
            replicas: vec![
                ReplicaLine {
                    replica: "r-abcdefgh".to_owned(),
                    workers: 10,
                    busy: 10,
                    ..ReplicaLine::default()
                },
                ReplicaLine {
                    replica: "r-12345678".to_owned(),
                    workers: 10,
                    busy: 5,
                    failing: 1,
                    ..ReplicaLine::default()
                },
            ],
            tasks: vec![TaskLine {
                task_id: "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000".to_owned(),
                task_name: "report".to_owned(),
                queue: "default".to_owned(),
                priority: "HIGH",
                attempt: 2,
                worker: "r-abcdefgh/3".to_owned(),
                seconds: 72.4,
            }],
            failures: vec![FailureLine {
                kind: "task".to_owned(),
                task_name: Some("send_mail".to_owned()),
                reason: "handler_error".to_owned(),
                message: "no such\nmailbox".to_owned(),
                seconds_ago: 130.0,
                ..FailureLine::default()
            }],
            ..Reading::default()
        }
    }

    fn screen() -> Screen {
        let mut screen = Screen::new("127.0.0.1:6379".to_owned(), true);
        for second in 0..60 {
            let ended = 1000 * second + 40 * second * second;
            let failed = second * 10;
            let reading = Reading {
                ended,
                failed,
                ..reading()
            };
            screen.take_at(reading, Duration::from_secs(second));
        }
        screen
    }

    #[test]
    fn the_screen_shows_everything_that_there_is_to_see() {
        let lines = plain(&screen(), 100, 40);
        let text = lines.join("\n");

        for expected in [
            "waooaw top",
            "127.0.0.1:6379   2 replicas",
            "12:04:05 UTC",
            "normal        1,000",
            "pending       1,204 1,150 ready, of 10,000",
            "running          15 75 % of the workers",
            "5680/s   24,680/min",
            "oldest 2.5 s   triggers 3   dead letters 2",
            "paused",
            "10/10",
            "5/10",
            "1 ERROR",
            "7a1f5c1e-90d2-8b44-9f0e-3c5d1a2b0000",
            "72.4 s",
            "handler_error",
            "no such mailbox",
            "2 min",
            "q quit",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
        let columns = |line: &String| line.chars().count();
        assert!(lines.iter().all(|line| columns(line) <= 100), "{text}");
    }

    #[test]
    fn a_small_window_shows_less_and_breaks_nothing() {
        let screen = screen();
        for (width, height) in [(1, 1), (10, 5), (40, 12), (80, 24), (300, 100)] {
            let lines = plain(&screen, width, height);
            assert_eq!(lines.len(), usize::from(height), "{width} {height}");
        }
        let text = plain(&screen, 80, 24).join("\n");
        for expected in ["normal", "default", "r-abcdefgh", "report", "send_mail", "q quit"] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn a_picture_says_when_it_is_held_and_when_nothing_new_is_seen() {
        let mut screen = screen();
        screen.miss("redis is unavailable");
        assert!(plain(&screen, 100, 30)[0].contains("redis is unavailable, seen"));

        screen.hold();
        assert!(screen.is_held() && plain(&screen, 100, 30)[0].contains("HELD"));
        screen.hold();
        screen.take(reading());
        assert!(!plain(&screen, 100, 30)[0].contains("redis is unavailable"));
    }

    #[test]
    fn without_colour_nothing_is_coloured() {
        let mut screen = screen();
        screen.has_color = false;
        let Ok(mut terminal) = ratatui::Terminal::new(TestBackend::new(100, 40));
        let Ok(_drawn) = terminal.draw(|frame| draw(&screen, frame));

        let buffer = terminal.backend().buffer();
        assert!(buffer.content().iter().all(|cell| cell.fg == Color::Reset));
    }
}
