//! The tables that all threads share: stacks, frames, functions, and the texts behind them.

use std::collections::BTreeMap;

use foldhash::HashMap;
use serde::Serialize;

use super::Tracks;

/// An object that code lies in.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Lib<'a> {
    arch: &'a str,
    name: &'a str,
    path: &'a str,
    debug_name: &'a str,
    debug_path: &'a str,
    breakpad_id: &'a str,
    code_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Shared<'a> {
    string_array: Vec<&'a str>,
    sources: Sources,
    stack_table: StackTable,
    frame_table: FrameTable,
    func_table: FuncTable,
    resource_table: ResourceTable,
    native_symbols: NativeSymbols,
}

#[derive(Default, Serialize)]
struct Sources {
    length: usize,
    id: Vec<Option<()>>,
    filename: Vec<usize>,
}

#[derive(Default, Serialize)]
struct StackTable {
    length: usize,
    frame: Vec<usize>,
    prefix: Vec<Option<usize>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FrameTable {
    length: usize,
    address: Vec<i64>,
    inline_depth: Vec<u32>,
    category: Vec<usize>,
    subcategory: Vec<u32>,
    func: Vec<usize>,
    native_symbol: Vec<Option<()>>,
    #[serde(rename = "innerWindowID")]
    inner_window_id: Vec<u32>,
    line: Vec<Option<u32>>,
    column: Vec<Option<u32>>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct FuncTable {
    length: usize,
    name: Vec<usize>,
    #[serde(rename = "isJS")]
    is_js: Vec<bool>,
    #[serde(rename = "relevantForJS")]
    relevant_for_js: Vec<bool>,
    resource: Vec<i64>,
    source: Vec<Option<usize>>,
    line_number: Vec<Option<u32>>,
    column_number: Vec<Option<u32>>,
}

#[derive(Default, Serialize)]
struct ResourceTable {
    length: usize,
    lib: Vec<usize>,
    name: Vec<usize>,
    host: Vec<Option<()>>,
    r#type: Vec<u32>,
}

/// No symbols, in columns: frames have their names.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct NativeSymbols {
    length: usize,
    lib_index: [(); 0],
    address: [(); 0],
    name: [(); 0],
    function_size: [(); 0],
}

/// What kind of resource a library is. Source: `ResourceType` in `src/types/profile.ts`.
const LIBRARY: u32 = 1;

/// Texts, each once, in the order in which they are asked for.
#[derive(Default)]
struct Texts<'a> {
    items: Vec<&'a str>,
    numbers: HashMap<&'a str, usize>,
}

impl<'a> Texts<'a> {
    fn number(&mut self, text: &'a str) -> usize {
        *self.numbers.entry(text).or_insert_with(|| {
            self.items.push(text);
            self.items.len() - 1
        })
    }
}

/// The tables, the objects, and the last entry of each stack of the tracks.
pub(super) fn of<'a>(tracks: &'a Tracks<'_>) -> (Shared<'a>, Vec<Lib<'a>>, Vec<usize>) {
    let mut texts = Texts::default();
    let (libs, resource_table, resources) = objects(tracks, &mut texts);
    let (func_table, sources) = functions(tracks, &resources, &mut texts);
    let (stack_table, leaves) = stacks(tracks);
    let shared = Shared {
        sources,
        stack_table,
        frame_table: frames(tracks),
        func_table,
        resource_table,
        native_symbols: NativeSymbols::default(),
        string_array: texts.items,
    };
    (shared, libs, leaves)
}

type Resources<'a> = BTreeMap<&'a str, i64>;

fn objects<'a>(
    tracks: &'a Tracks<'_>,
    texts: &mut Texts<'a>,
) -> (Vec<Lib<'a>>, ResourceTable, Resources<'a>) {
    let mut resources = Resources::new();
    for function in &tracks.frames.functions {
        if !function.object.is_empty() {
            resources.insert(&function.object, 0);
        }
    }
    let (mut libs, mut table) = (Vec::new(), ResourceTable::default());
    for ((path, resource), number) in resources.iter_mut().zip(0..) {
        *resource = number;
        let path: &'a str = path;
        let name = path.rsplit('/').next().unwrap_or(path);
        table.lib.push(table.length);
        table.name.push(texts.number(name));
        table.host.push(None);
        table.r#type.push(LIBRARY);
        table.length += 1;
        libs.push(Lib {
            arch: "",
            name,
            path,
            debug_name: name,
            debug_path: path,
            breakpad_id: "",
            code_id: None,
        });
    }
    (libs, table, resources)
}

fn functions<'a>(
    tracks: &'a Tracks<'_>,
    resources: &Resources<'a>,
    texts: &mut Texts<'a>,
) -> (FuncTable, Sources) {
    let (mut table, mut sources) = (FuncTable::default(), Sources::default());
    let mut numbers: HashMap<&str, usize> = HashMap::default();
    for function in &tracks.frames.functions {
        let resource = resources.get(function.object.as_ref());
        table.length += 1;
        table.name.push(texts.number(&function.name));
        table.is_js.push(false);
        table.relevant_for_js.push(false);
        table.resource.push(resource.copied().unwrap_or(-1));
        let source = (!function.file.is_empty()).then(|| {
            *numbers.entry(&function.file).or_insert_with(|| {
                sources.length += 1;
                sources.id.push(None);
                sources.filename.push(texts.number(&function.file));
                sources.length - 1
            })
        });
        table.source.push(source);
        table.line_number.push(known(function.start_line));
        table.column_number.push(None);
    }
    (table, sources)
}

fn frames(tracks: &Tracks<'_>) -> FrameTable {
    let mut table = FrameTable::default();
    for frame in &tracks.frames.frames {
        table.length += 1;
        table.address.push(-1);
        table.inline_depth.push(0);
        table.category.push(frame.shown.number());
        table.subcategory.push(0);
        table.func.push(frame.function);
        table.native_symbol.push(None);
        table.inner_window_id.push(0);
        table.line.push(known(frame.line));
        table.column.push(known(frame.column));
    }
    table
}

/// The stacks as a tree, and where in it each of them ends. Stacks are sorted, so what one shares
/// with those before it is shared with the last of them.
fn stacks(tracks: &Tracks<'_>) -> (StackTable, Vec<usize>) {
    let mut table = StackTable::default();
    let mut path: Vec<usize> = Vec::new();
    let mut last: &[usize] = &[];
    let mut leaves = Vec::with_capacity(tracks.stacks.len());
    for stack in &tracks.stacks {
        let shared = last.iter().zip(stack).take_while(|(a, b)| a == b).count();
        path.truncate(shared);
        for frame in &stack[shared..] {
            table.frame.push(*frame);
            table.prefix.push(path.last().copied());
            path.push(table.length);
            table.length += 1;
        }
        leaves.push(
            *path
                .last()
                .expect("each stack has a frame, if only one that says it has none"),
        );
        last = stack;
    }
    (table, leaves)
}

fn known(number: u32) -> Option<u32> {
    (number != 0).then_some(number)
}
