//! Which of a profile's values are taken.

use super::wire::Parts;
use crate::{
    export::proto,
    import::{ImportError, SampleIndex},
    profile::{Profile, ValueType, Values},
};

/// What a file's values are, and which of them are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Position of the one that counts events, or is taken alone.
    pub(super) position: usize,
    pub(super) values: Values,
    pub(super) event_type: ValueType,
    pub(super) period_type: ValueType,
    pub(super) period: u64,
}

impl Choice {
    pub(super) fn of(parts: &Parts<'_>, asked: Option<&SampleIndex>) -> Result<Self, ImportError> {
        let types = parts.sample_types.iter().map(|of| value_type(parts, of));
        let types: Vec<ValueType> = types.collect::<Result<_, _>>()?;
        let period_type = parts.period_type.as_ref();
        let period_type = period_type.map_or(Ok(ValueType::default()), |t| value_type(parts, t))?;
        let singles = parts.singles();
        let period = u64::try_from(singles.period).unwrap_or(0);
        let usual = parts.text(singles.default_sample_type)?;
        let position = match asked {
            Some(asked) => asked_for(asked, &types)?,
            None => shown(&usual, &types)?,
        };
        let follows = asked.is_none() && position == 1 && types[1] == period_type;
        let both = match &types[..] {
            [count, _] if follows && count.unit == "count" => all_follow(parts, period)?,
            _ => false,
        };
        let (values, position) = match both {
            true => (Values::CountAndPeriod, 0),
            false => (Values::CountAlone, position),
        };
        Ok(Self {
            position,
            values,
            event_type: types[position].clone(),
            period_type,
            period,
        })
    }

    /// A profile without samples.
    pub(super) fn profile(&self) -> Profile {
        let mut profile = Profile::counting(self.event_type.clone());
        profile.period_type.clone_from(&self.period_type);
        profile.period = self.period;
        profile.values = self.values;
        profile
    }

    /// The count of a sample, `None` if it is negative.
    pub(super) fn count(&self, sample: &proto::Sample) -> Option<u64> {
        let value = sample.value.get(self.position).copied();
        u64::try_from(value.unwrap_or_default()).ok()
    }
}

fn value_type(parts: &Parts<'_>, of: &proto::ValueType) -> Result<ValueType, ImportError> {
    Ok(ValueType {
        kind: parts.text(of.r#type)?.into_owned().into(),
        unit: parts.text(of.unit)?.into_owned().into(),
    })
}

/// What pprof shows unless told: the default of the file, or else the last.
fn shown(usual: &str, types: &[ValueType]) -> Result<usize, ImportError> {
    let usual = types.iter().position(|of| of.kind == usual);
    usual
        .or_else(|| types.len().checked_sub(1))
        .ok_or(ImportError::NoValues)
}

/// As pprof reads `-sample_index`: `inuse_space` is also the `space` of old files.
fn asked_for(asked: &SampleIndex, types: &[ValueType]) -> Result<usize, ImportError> {
    let found = match asked {
        SampleIndex::Position(position) => (*position < types.len()).then_some(*position),
        SampleIndex::Kind(kind) => {
            let old = kind.strip_prefix("inuse_").unwrap_or(kind);
            let is_meant = |of: &ValueType| of.kind == kind.as_str() || of.kind == old;
            types.iter().position(is_meant)
        }
    };
    found.ok_or_else(|| match types.is_empty() {
        true => ImportError::NoValues,
        false => ImportError::NoSuchValue {
            asked: asked.clone(),
            kinds: types.iter().map(|of| of.kind.to_string()).collect(),
        },
    })
}

/// Whether each sample's second value is its first one times the period, and so is the sum.
fn all_follow(parts: &Parts<'_>, period: u64) -> Result<bool, ImportError> {
    if period == 0 {
        return Ok(false);
    }
    let mut sum = 0_i64;
    for sample in parts.samples() {
        let [count, value] = sample?.value[..] else {
            // Which is said when it is read.
            return Ok(false);
        };
        let is_it = count >= 0 && i128::from(count) * i128::from(period) == i128::from(value);
        match sum.checked_add(value) {
            Some(more) if is_it => sum = more,
            _ => return Ok(false),
        }
    }
    Ok(true)
}
