//! One profile out of two.

use super::{
    FrameKind, Function, Identity, Label, LabelKey, LabelValue, Line, LocationId, Mapping,
    MappingId, Profile, Sample, StringId, Sum,
};

/// A line by what it says: name, linker's name and file; start line, line and column.
type ToldLine<'a> = ([&'a str; 3], [u32; 3]);

impl Profile {
    /// Adds every event of `other`, which must have the same types and values, and the same period
    /// unless events are weighed.
    ///
    /// The start is the earlier of the two, the duration the sum (as pprof merges). Times of
    /// events stay known where both know them and their starts. But for the order of the
    /// comments, it does not matter which of the two is merged into which.
    pub fn merge(&mut self, other: &Self) {
        self.identify_made();
        // What is profiled as a whole counts, although no code of it may have been met.
        for id in other.mapping_ids() {
            self.adopt_mapping(other, id);
        }
        let is_told = other.told();
        let locations: Vec<LocationId> = other
            .location_ids()
            .map(|id| match is_told[id.index()] {
                true => self.adopt_told(other, id),
                false => self.adopt(other, id),
            })
            .collect();
        for sample in other.samples() {
            let stack: Vec<LocationId> = sample
                .stack
                .iter()
                .map(|id| locations[id.index()])
                .collect();
            let labels: Vec<Label> = sample
                .labels
                .iter()
                .map(|(key, value)| (self.adopt_key(other, *key), self.adopt_label(other, *value)))
                .collect();
            let (count, events) = (sample.count, sample.events);
            self.add_sum(&stack, &labels, Sum { count, events });
        }
        self.timeline = self.joined_timeline(other, &locations);
        self.time_ns = match (self.time_ns, other.time_ns) {
            (0, time) | (time, 0) => time,
            (ours, theirs) => ours.min(theirs),
        };
        self.duration_ns += other.duration_ns;
        self.period = self.period.max(other.period);
        for comment in &other.comments {
            if !self.comments.contains(comment) {
                self.comments.push(comment.clone());
            }
        }
        if self.hints < other.hints {
            self.hints = other.hints.clone();
        }
        for key in &other.shown_labels {
            if !self.shown_labels.contains(key) {
                self.shown_labels.push(*key);
            }
        }
    }

    /// The samples that are wanted, with the code that they lie in and nothing else. It is labelled by
    /// these keys, as far as the samples are, and by the comm. Times of events are left out.
    #[must_use]
    pub fn part(&self, shown: &[LabelKey], mut is_wanted: impl FnMut(&Sample<'_>) -> bool) -> Self {
        let mut part = Self {
            event_type: self.event_type.clone(),
            period_type: self.period_type.clone(),
            values: self.values,
            time_ns: self.time_ns,
            duration_ns: self.duration_ns,
            shown_labels: shown.to_vec(),
            ..Self::cpu(self.period)
        };
        let mut locations: Vec<Option<LocationId>> = vec![None; self.locations.len()];
        for sample in self.samples().filter(|sample| is_wanted(sample)) {
            let mut adopt = |id: &LocationId| {
                let known = &mut locations[id.index()];
                *known.get_or_insert_with(|| part.adopt(self, *id))
            };
            let stack: Vec<LocationId> = sample.stack.iter().map(&mut adopt).collect();
            let is_shown = |key: &LabelKey| *key == LabelKey::Comm || shown.contains(key);
            let labels = sample.labels.iter().filter(|(key, _)| is_shown(key));
            let labels: Vec<Label> = labels
                .map(|(key, value)| (part.adopt_key(self, *key), part.adopt_label(self, *value)))
                .collect();
            let (count, events) = (sample.count, sample.events);
            part.add_sum(&stack, &labels, Sum { count, events });
        }
        part
    }

    /// Has code made at run time found by its function alone: numbers mean nothing in another profile.
    fn identify_made(&mut self) {
        let locations = &self.locations;
        let is_named = |id: LocationId| !locations[id.index()].lines.is_empty();
        self.location_ids.retain(|(kind, .., identity), id| {
            let is_told = matches!(identity, Identity::Lines(_));
            is_told || *kind != FrameKind::Jit || !is_named(*id)
        });
        for id in self.location_ids() {
            let location = self.location_at(id);
            if let (FrameKind::Jit, Some(line)) = (location.kind, location.lines.last()) {
                let identity = Identity::Function(line.function);
                let key = (location.kind, location.mapping, location.address, identity);
                self.location_ids.entry(key).or_insert(id);
            }
        }
    }

    /// Which locations are as a file told them.
    fn told(&self) -> Vec<bool> {
        let mut is_told = vec![false; self.locations.len()];
        for ((.., identity), id) in &self.location_ids {
            is_told[id.index()] = matches!(identity, Identity::Lines(_));
        }
        is_told
    }

    fn adopt_told(&mut self, other: &Self, id: LocationId) -> LocationId {
        let theirs = other.location_at(id).clone();
        let lines = theirs.lines.iter();
        let told = super::Location {
            mapping: theirs.mapping.map(|id| self.adopt_mapping(other, id)),
            lines: lines.map(|line| self.adopt_line(other, *line)).collect(),
            ..theirs
        };
        self.told_location(told)
    }

    fn adopt_mapping(&mut self, other: &Self, id: MappingId) -> MappingId {
        let theirs = *other.mapping_at(id);
        let mapping = Mapping {
            path: self.adopt_text(other, theirs.path),
            build_id: self.adopt_text(other, theirs.build_id),
            ..theirs
        };
        let ours = self.mapping(mapping);
        if other.is_left_unnamed(id) {
            self.leave_unnamed(ours);
        }
        ours
    }

    fn adopt(&mut self, other: &Self, id: LocationId) -> LocationId {
        let location = other.location_at(id);
        let mapping = location.mapping.map(|id| self.adopt_mapping(other, id));
        let identity = match (location.kind, location.lines.last()) {
            (FrameKind::Marker, Some(line)) => {
                Identity::Words(self.adopt_text(other, other.function_at(line.function).name))
            }
            (FrameKind::Jit, Some(line)) => {
                Identity::Function(self.adopt_line(other, *line).function)
            }
            _ => Identity::Place,
        };
        let ours = self.location_keyed(location.kind, mapping, location.address, identity);
        // Two runs may have found different lines for one place, say with and without debug
        // info. The choice between them must not depend on which profile is merged into which.
        if other.told_by(&location.lines) > self.told_by(&self.location_at(ours).lines) {
            let lines = location
                .lines
                .iter()
                .map(|line| self.adopt_line(other, *line))
                .collect();
            self.set_lines(ours, lines);
        }
        ours
    }

    /// What lines say, in an order in which more lines are more.
    fn told_by(&self, lines: &[Line]) -> (usize, Vec<ToldLine<'_>>) {
        let told = |line: &Line| {
            let function = self.function_at(line.function);
            let texts = [function.name, function.system_name, function.file];
            (
                texts.map(|text| self.text(text)),
                [function.start_line, line.line, line.column],
            )
        };
        (lines.len(), lines.iter().map(told).collect())
    }

    fn adopt_line(&mut self, other: &Self, line: Line) -> Line {
        let theirs = *other.function_at(line.function);
        let function = Function {
            name: self.adopt_text(other, theirs.name),
            system_name: self.adopt_text(other, theirs.system_name),
            file: self.adopt_text(other, theirs.file),
            start_line: theirs.start_line,
        };
        Line {
            function: self.function(function),
            ..line
        }
    }

    fn adopt_key(&mut self, other: &Self, key: LabelKey) -> LabelKey {
        match key {
            LabelKey::Foreign(name) => LabelKey::Foreign(self.adopt_text(other, name)),
            own => own,
        }
    }

    fn adopt_label(&mut self, other: &Self, value: LabelValue) -> LabelValue {
        match value {
            LabelValue::Text(id) => LabelValue::Text(self.adopt_text(other, id)),
            LabelValue::Number(number, unit) => {
                LabelValue::Number(number, self.adopt_text(other, unit))
            }
        }
    }

    fn adopt_text(&mut self, other: &Self, id: StringId) -> StringId {
        self.string(other.text(id))
    }
}
