//! Builds a profile from stacks: each text, function and frame once.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::proto::{Function, Label, Line, Location, Mapping, Profile, Sample, ValueType};

/// The program's place in the table of mappings.
const PROGRAM: u64 = 1;

/// When samples were taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub start: SystemTime,
    pub duration: Duration,
    /// CPU time between two samples.
    pub period: Duration,
}

/// A function in a frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol<'a> {
    pub name: &'a str,
    /// As the linker calls it.
    pub system_name: &'a str,
    /// Empty: not known.
    pub file: &'a str,
    /// 0: not known.
    pub line: u32,
}

/// A profile that grows by stacks.
#[derive(Debug)]
pub(super) struct Builder {
    profile: Profile,
    texts: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    frames: HashMap<Vec<Line>, u64>,
    period: i64,
    thread: i64,
}

impl Builder {
    /// A profile of `program` without samples.
    pub(super) fn new(program: &str, comment: &str, timing: Timing) -> Self {
        let mut builder = Self {
            profile: Profile::default(),
            texts: HashMap::new(),
            functions: HashMap::new(),
            frames: HashMap::new(),
            period: nanos(timing.period),
            thread: 0,
        };
        // The first one is empty by definition.
        builder.text("");
        builder.thread = builder.text("thread");
        let samples = ValueType {
            kind: builder.text("samples"),
            unit: builder.text("count"),
        };
        let time = ValueType {
            kind: builder.text("cpu"),
            unit: builder.text("nanoseconds"),
        };
        let program = Mapping {
            id: PROGRAM,
            filename: builder.text(program),
            has_functions: true,
            has_filenames: true,
            has_line_numbers: true,
            has_inline_frames: true,
        };
        let comment = builder.text(comment);
        let start = timing.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        builder.profile = Profile {
            sample_type: vec![samples, time],
            mapping: vec![program],
            time_nanos: nanos(start),
            duration_nanos: nanos(timing.duration),
            period_type: Some(time),
            period: builder.period,
            comment: vec![comment],
            ..builder.profile
        };
        builder
    }

    /// Adds a stack of `thread` that was seen `count` times. The innermost frame is first, and within a frame the innermost
    /// one of inlined functions.
    pub(super) fn add<'a, F>(&mut self, thread: &str, count: i64, stack: impl Iterator<Item = F>)
    where
        F: Iterator<Item = Symbol<'a>>,
    {
        let location_id = stack.map(|symbols| self.frame(symbols)).collect();
        let label = Label {
            key: self.thread,
            text: self.text(thread),
        };
        self.profile.sample.push(Sample {
            location_id,
            value: vec![count, count.saturating_mul(self.period)],
            label: vec![label],
        });
    }

    pub(super) fn finish(self) -> Profile {
        self.profile
    }

    fn frame<'a>(&mut self, symbols: impl Iterator<Item = Symbol<'a>>) -> u64 {
        let line: Vec<Line> = symbols.map(|symbol| self.line(symbol)).collect();
        let next = self.profile.location.len() as u64 + 1;
        if let Some(&known) = self.frames.get(&line) {
            return known;
        }
        self.frames.insert(line.clone(), next);
        self.profile.location.push(Location {
            id: next,
            mapping_id: PROGRAM,
            line,
        });
        next
    }

    fn line(&mut self, symbol: Symbol<'_>) -> Line {
        let (system_name, filename) = (self.text(symbol.system_name), self.text(symbol.file));
        let next = self.functions.len() as u64 + 1;
        let function_id = *self.functions.entry((system_name, filename)).or_insert(next);
        if function_id == next {
            let name = self.text(symbol.name);
            self.profile.function.push(Function {
                id: function_id,
                name,
                system_name,
                filename,
            });
        }
        Line {
            function_id,
            line: symbol.line.into(),
        }
    }

    /// The place of a text in the table.
    fn text(&mut self, text: &str) -> i64 {
        if let Some(&known) = self.texts.get(text) {
            return known;
        }
        let next = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.texts.insert(text.to_owned(), next);
        next
    }
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}
