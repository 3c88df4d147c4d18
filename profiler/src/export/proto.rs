//! pprof's messages, field for field.
//!
//! Source: `proto/profile.proto` of github.com/google/pprof. Every `i64` that names a text is an
//! index into [`Profile::string_table`]. Fields whose default is their only value in our files
//! are here too, so that what others wrote is read in full.

use prost::Message;

/// A profile.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// What the values of each sample mean, in their order.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The samples.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// The address ranges; the first is the main executable.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// The places in the code.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// The functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// Every text; the first is empty.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// Text: regular expression of frames to drop, with all they call.
    #[prost(int64, tag = "7")]
    pub drop_frames: i64,
    /// Text: regular expression of frames to keep although they match `drop_frames`.
    #[prost(int64, tag = "8")]
    pub keep_frames: i64,
    /// Start, in nanoseconds since the epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// Length, in nanoseconds.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// What the period counts.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// How much of `period_type` lies between two events.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// Texts: free comments.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// Text: the sample type to show; 0 for the last.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
    /// Text: absolute URL of a page about the profile.
    #[prost(int64, tag = "15")]
    pub doc_url: i64,
}

/// What a value means.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct ValueType {
    /// Text: what is counted.
    #[prost(int64, tag = "1")]
    pub r#type: i64,
    /// Text: its unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack with its values.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Sample {
    /// Ids of locations, innermost first.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One for each sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// What else is known of the sample.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// A key with a text or a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Label {
    /// Text: the key.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Text: the value, if it is one.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// The value, if it is a number.
    #[prost(int64, tag = "3")]
    pub num: i64,
    /// Text: the number's unit. Readers drop a 0 without one.
    #[prost(int64, tag = "4")]
    pub num_unit: i64,
}

/// An address range backed by one object.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Mapping {
    /// Its id: any number but 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// First address.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Address after the last.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Offset in the file of the first address.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Text: the object's path.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Text: the object's build id.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// Whether its locations have functions, so that no reader looks for them.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// Whether its functions have files.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// Whether its lines have numbers.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    /// Whether its locations list inlined calls.
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A place in the code.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Location {
    /// Its id: any number but 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Id of the mapping it lies in; 0 for none.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Its address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// Its functions, the innermost inlined one first.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
    /// Whether the linker folded several functions into this code.
    #[prost(bool, tag = "5")]
    pub is_folded: bool,
}

/// A function of a location.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Line {
    /// Id of the function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// Line number, from 1; 0 when unknown.
    #[prost(int64, tag = "2")]
    pub line: i64,
    /// Column, from 1; 0 when unknown.
    #[prost(int64, tag = "3")]
    pub column: i64,
}

/// A function.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Function {
    /// Its id: any number but 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Text: the name to show.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Text: the linker's name where it differs.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Text: the source file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
    /// Line the function starts at; 0 when unknown.
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}
