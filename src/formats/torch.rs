//! PyTorch's `.pth`: state dicts of plain tensors, in the ZIP layout (since 1.6) and the older one.
//!
//! ZIP: `NAME/data.pkl` holds a pickle in which a tensor is a reference to a storage (key, type, number of
//! elements) with offset, sizes and strides; `NAME/data/KEY` holds the storage's bytes. Older: five pickles
//! one after the other (magic number, protocol, facts of the machine, the object, the storages' keys), then
//! for each key a 64-bit count and the bytes.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::elements::{Budget, ByteOrder, Cursor, Dtype, StoredTensor};
use super::pickle::{Global, Node, Pickle, Ref};
use super::zip::Entry;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The older layout's magic number, 0x1950a86a20f9469cfc6c, as its pickle writes it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
const PROTOCOL: i64 = 1001;

/// Whether bytes begin as the older layout does: protocol 2, then the magic number.
pub(crate) fn is_old(bytes: &[u8]) -> bool {
    bytes.len() > 2 && bytes[0] == 0x80 && bytes[2..].starts_with(MAGIC)
}

/// Whether an archive is one of PyTorch's.
pub(crate) fn is_archive(entries: &[Entry<'_>]) -> bool {
    entries.iter().any(|e| is_data_pickle(e.name))
}

fn is_data_pickle(name: &str) -> bool {
    name == "data.pkl" || name.ends_with("/data.pkl")
}

/// A pickled object whose tensors live in storages beside it.
pub(crate) struct Archive<'a> {
    path: &'a Path,
    pickle: Pickle<'a>,
    storages: HashMap<&'a str, &'a [u8]>,
    order: ByteOrder,
}

/// What a tensor's reference to its storage says.
struct StorageId<'a> {
    dtype: Dtype,
    key: &'a str,
    count: usize,
    /// First element and number of elements of the part that is meant (before PyTorch 0.4).
    view: Option<(usize, usize)>,
}

impl<'a> Archive<'a> {
    /// Opens the ZIP layout.
    pub fn from_zip(path: &'a Path, entries: &[Entry<'a>]) -> Result<Self> {
        let mut pickles = entries.iter().filter(|e| is_data_pickle(e.name));
        let (Some(data), None) = (pickles.next(), pickles.next()) else {
            return Err(Error::malformed(path, "the archive does not hold exactly one `data.pkl`"));
        };
        let root = data.name.strip_suffix("data.pkl").unwrap_or_default();
        let entry = |name: &str| {
            entries.iter().find(|e| e.name.strip_prefix(root).is_some_and(|n| n == name)).map(|e| e.data)
        };
        let order = match entry("byteorder") {
            None | Some(b"little") => ByteOrder::Little,
            Some(b"big") => ByteOrder::Big,
            Some(_) => return Err(Error::malformed(path, "`byteorder` is neither little nor big")),
        };
        let storages = entries
            .iter()
            .filter_map(|e| Some((e.name.strip_prefix(root)?.strip_prefix("data/")?, e.data)))
            .collect();
        Ok(Self { path, pickle: Pickle::parse(path, data.data, 0)?, storages, order })
    }

    /// Opens the older layout.
    pub fn from_old(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        if !is_old(bytes) {
            return Err(Error::malformed(path, "this is not a file of PyTorch's older layout"));
        }
        let malformed = |message: &str| Error::malformed(path, message);
        let magic = Pickle::parse(path, bytes, 0)?;
        let protocol = Pickle::parse(path, bytes, magic.end)?;
        if protocol.int(protocol.root) != Some(PROTOCOL) {
            return Err(malformed("the version of PyTorch's older layout is not 1001"));
        }
        let machine = Pickle::parse(path, bytes, protocol.end)?;
        let facts =
            machine.dict(machine.root).ok_or_else(|| malformed("the facts of the machine are missing"))?;
        let little = facts.iter().find(|(key, _)| machine.text(*key) == Some("little_endian"));
        let order = match little.map(|(_, value)| machine.node(*value)) {
            Some(Node::Bool(false)) => ByteOrder::Big,
            _ => ByteOrder::Little,
        };
        let pickle = Pickle::parse(path, bytes, machine.end)?;
        let keys = Pickle::parse(path, bytes, pickle.end)?;
        let Node::List(list) = keys.node(keys.root) else {
            return Err(malformed("the list of storages is missing"));
        };
        let mut archive = Self { path, pickle, storages: HashMap::new(), order };
        let dtypes = archive.storage_types()?;
        let mut cursor = Cursor::new(path, bytes);
        cursor.at = keys.end;
        for &key in list {
            let key = keys.text(key).ok_or_else(|| malformed("a storage's key is not a text"))?;
            let count = match order {
                ByteOrder::Little => cursor.size()?,
                ByteOrder::Big => usize::try_from(u64::from_be_bytes(cursor.array()?)).unwrap_or(usize::MAX),
            };
            let dtype =
                dtypes.get(key).ok_or_else(|| cursor.fail(format!("no tensor uses storage `{key}`")))?;
            let size = count.saturating_mul(dtype.size());
            if archive.storages.insert(key, cursor.take(size)?).is_some() {
                return Err(cursor.fail(format!("storage `{key}` occurs twice")));
            }
        }
        if cursor.at != bytes.len() {
            return Err(cursor.fail("there are bytes after the last storage"));
        }
        Ok(archive)
    }

    /// The element type of each storage that the object refers to.
    fn storage_types(&self) -> Result<HashMap<&'a str, Dtype>> {
        let mut types = HashMap::new();
        for id in self.pickle.persistent() {
            let id = self.storage_id(id)?;
            if types.insert(id.key, id.dtype).is_some_and(|other| other != id.dtype) {
                let message = format!("storage `{}` has two element types", id.key.escape_debug());
                return Err(Error::malformed(self.path, message));
            }
        }
        Ok(types)
    }

    /// Understands ('storage', type, key, device, count[, view]).
    fn storage_id(&self, id: Ref) -> Result<StorageId<'a>> {
        let p = &self.pickle;
        let understood = || {
            let (&[kind, dtype, key, _device, count], rest) = p.tuple(id)?.split_first_chunk::<5>()?;
            let Node::Global(Global::Storage(dtype)) = *p.node(dtype) else { return None };
            let size = |at: Ref| usize::try_from(p.int(at)?).ok();
            let view = match rest {
                [] => None,
                [view] => match p.node(*view) {
                    Node::None => None,
                    Node::Tuple(view) => {
                        let [_, offset, count] = view[..] else { return None };
                        Some((size(offset)?, size(count)?))
                    }
                    _ => return None,
                },
                _ => return None,
            };
            (p.text(kind)? == "storage").then_some(())?;
            Some(StorageId { dtype, key: p.text(key)?, count: size(count)?, view })
        };
        understood().ok_or_else(|| {
            Error::malformed(self.path, "the pickle refers to something that is not a tensor's storage")
                .remedy("save the file anew as a state dict of plain tensors")
        })
    }

    /// The bytes of a storage and its element type.
    fn storage(&self, id: Ref) -> Result<(Dtype, &'a [u8])> {
        let StorageId { dtype, key, count, view } = self.storage_id(id)?;
        let fail =
            |what: &str| Error::malformed(self.path, format!("storage `{}` {what}", key.escape_debug()));
        let bytes = *self.storages.get(key).ok_or_else(|| fail("is missing"))?;
        if count.checked_mul(dtype.size()) != Some(bytes.len()) {
            return Err(fail(&format!(
                "has {} bytes, not {count} elements of {}",
                bytes.len(),
                dtype.name()
            )));
        }
        let Some((first, count)) = view else { return Ok((dtype, bytes)) };
        let range = first
            .checked_mul(dtype.size())
            .zip(first.checked_add(count))
            .and_then(|(start, end)| bytes.get(start..end.checked_mul(dtype.size())?));
        Ok((dtype, range.ok_or_else(|| fail("is smaller than the part that is used"))?))
    }

    /// The tensors of the state dict in the object, wherever it is nested.
    ///
    /// # Errors
    /// No state dict, or several that are equally near; tensors that do not fit their storages.
    pub fn state_dict(&self, budget: &mut Budget) -> Result<Vec<StoredTensor>> {
        let fetch = |at, name: &str, budget: &mut Budget| {
            read_tensor(self.path, &self.pickle, at, name, self.order, budget, &|id| self.storage(id))
        };
        if is_tensor(&self.pickle, self.pickle.root) {
            return Ok(vec![fetch(self.pickle.root, "tensor", budget)?]);
        }
        let mut tensors = Vec::new();
        let mut seen = HashSet::new();
        for &(key, value) in find_state_dict(self.path, &self.pickle)? {
            if !is_tensor(&self.pickle, value) {
                continue;
            }
            let name = self.pickle.text(key).ok_or_else(|| {
                Error::malformed(self.path, "a tensor in the state dict has a name that is not a text")
            })?;
            if !seen.insert(name) {
                let message = format!("`{}` occurs twice in the state dict", name.escape_debug());
                return Err(Error::malformed(self.path, message));
            }
            tensors.push(fetch(value, name, budget)?);
        }
        Ok(tensors)
    }
}

/// Whether a node is a tensor (or a parameter made of one).
pub(crate) fn is_tensor(pickle: &Pickle<'_>, at: Ref) -> bool {
    matches!(pickle.node(at), Node::Call(Global::RebuildTensor | Global::RebuildParameter, _, _))
}

/// A tensor whose storage is pickled within the same pickle, as in irn's class maps.
pub(crate) fn embedded_tensor(
    path: &Path,
    pickle: &Pickle<'_>,
    at: Ref,
    name: &str,
    budget: &mut Budget,
) -> Result<StoredTensor> {
    read_tensor(path, pickle, at, name, ByteOrder::Little, budget, &|_| {
        Err(Error::malformed(path, format!("the storage of `{name}` is not in the file")))
    })
}

type FetchStorage<'f, 'a> = dyn Fn(Ref) -> Result<(Dtype, &'a [u8])> + 'f;

fn read_tensor(
    path: &Path,
    pickle: &Pickle<'_>,
    at: Ref,
    name: &str,
    order: ByteOrder,
    budget: &mut Budget,
    fetch: &FetchStorage<'_, '_>,
) -> Result<StoredTensor> {
    let strange =
        || Error::malformed(path, format!("the tensor `{}` is not understood", name.escape_debug()));
    let mut call = pickle.node(at);
    if let Node::Call(Global::RebuildParameter, arguments, _) = call {
        let inner = pickle.tuple(*arguments).and_then(|a| a.first()).ok_or_else(strange)?;
        call = pickle.node(*inner);
    }
    let Node::Call(Global::RebuildTensor, arguments, _) = call else { return Err(strange()) };
    let arguments = pickle.tuple(*arguments).and_then(|a| a.first_chunk::<4>());
    let &[storage, offset, shape, strides] = arguments.ok_or_else(strange)?;
    let offset = pickle.int(offset).and_then(|v| usize::try_from(v).ok()).ok_or_else(strange)?;
    let (shape, strides) = pickle.sizes(shape).zip(pickle.sizes(strides)).ok_or_else(strange)?;
    let place = Strided { offset, shape, strides };
    let (dtype, tensor) = match pickle.node(storage) {
        Node::Persistent(id) => {
            let (dtype, bytes) = fetch(*id)?;
            (dtype, place.gather(path, name, dtype, bytes, order, budget)?)
        }
        Node::Call(Global::LoadFromBytes, arguments, _) => {
            let bytes = pickle.tuple(*arguments).and_then(|a| pickle.bytes(*a.first()?));
            let Some(Cow::Borrowed(bytes)) = bytes else { return Err(strange()) };
            let inner = Archive::from_old(path, bytes)?;
            let Node::Persistent(id) = inner.pickle.node(inner.pickle.root) else { return Err(strange()) };
            let (dtype, bytes) = inner.storage(*id)?;
            (dtype, place.gather(path, name, dtype, bytes, inner.order, budget)?)
        }
        _ => return Err(strange()),
    };
    Ok(StoredTensor { name: name.to_string(), dtype, tensor })
}

/// Where a tensor's elements lie in its storage: element (i₀, i₁, …) at `offset + Σ iₖ·strideₖ`.
struct Strided {
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl Strided {
    fn gather(
        &self,
        path: &Path,
        name: &str,
        dtype: Dtype,
        bytes: &[u8],
        order: ByteOrder,
        budget: &mut Budget,
    ) -> Result<Tensor> {
        let size = dtype.size();
        let (mut data, count) = budget.take(path, name, &self.shape)?;
        if self.strides.len() != self.shape.len()
            || count > 0 && self.last().is_none_or(|l| l >= bytes.len() / size)
        {
            let message = format!(
                "`{name}` {:?} with strides {:?} from {} does not fit its {} elements",
                self.shape,
                self.strides,
                self.offset,
                bytes.len() / size
            );
            return Err(Error::malformed(path, message).remedy("the file is damaged: fetch it again"));
        }
        if count > 0 && self.is_contiguous() {
            dtype.decode(&bytes[self.offset * size..][..count * size], order, &mut data);
        } else {
            let mut index = vec![0usize; self.shape.len()];
            let mut at = self.offset;
            for _ in 0..count {
                dtype.decode(&bytes[at * size..][..size], order, &mut data);
                for d in (0..index.len()).rev() {
                    index[d] += 1;
                    at += self.strides[d];
                    if index[d] < self.shape[d] {
                        break;
                    }
                    at -= self.strides[d] * self.shape[d];
                    index[d] = 0;
                }
            }
        }
        Tensor::new(&self.shape, data)
    }

    /// The last element that is used; `None` when it overflows. Only for tensors that are not empty.
    fn last(&self) -> Option<usize> {
        self.shape.iter().zip(&self.strides).try_fold(self.offset, |at, (&size, &stride)| {
            // The walk below steps once beyond the end of a dimension before it turns back.
            stride.checked_mul(size)?.checked_add(at)?;
            at.checked_add(stride.checked_mul(size.checked_sub(1)?)?)
        })
    }

    fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&size, &stride)| {
            let fits = size == 1 || stride == expected;
            expected *= size;
            fits
        })
    }
}

type Entries<'p> = &'p [(Ref, Ref)];

/// The dictionary that has tensors in it and is nearest to the root. Among several equally near ones
/// `state_dict` and then `model` is meant; else nobody can say which.
fn find_state_dict<'p>(path: &Path, pickle: &'p Pickle<'_>) -> Result<Entries<'p>> {
    const DEEPEST: usize = 4;
    let has_tensors = |entries: Entries<'_>| entries.iter().any(|(_, value)| is_tensor(pickle, *value));
    let mut level: Vec<(String, Entries<'p>)> =
        pickle.dict(pickle.root).map(|entries| (String::new(), entries)).into_iter().collect();
    let mut visited = HashSet::new();
    for _ in 0..DEEPEST {
        let found: Vec<_> = level.iter().filter(|(_, entries)| has_tensors(entries)).collect();
        let named = |wanted: &str| found.iter().find(|(name, _)| name.rsplit('/').next() == Some(wanted));
        match (&found[..], named("state_dict").or_else(|| named("model"))) {
            ([(_, only)], _) | (_, Some((_, only))) => return Ok(only),
            ([], _) => {}
            _ => {
                let names: Vec<_> = found.iter().take(12).map(|(name, _)| format!("`{name}`")).collect();
                let message = format!("several dictionaries hold tensors: {}", names.join(", "));
                return Err(Error::malformed(path, message).remedy("save the one that is meant by itself"));
            }
        }
        let mut next = Vec::new();
        for (name, entries) in level {
            for &(key, value) in entries {
                let Some(inner) = pickle.dict(value) else { continue };
                if visited.insert(value) {
                    // Cut: one long text may be the key of very many entries.
                    let text = pickle.text(key).map(|t| t.chars().take(64).collect::<String>());
                    let text = text.or_else(|| pickle.int(key).map(|i| i.to_string()));
                    let slash = if name.is_empty() { "" } else { "/" };
                    next.push((format!("{name}{slash}{}", text.as_deref().unwrap_or("?")), inner));
                }
            }
        }
        level = next;
    }
    Err(Error::malformed(path, "there are no tensors in the pickled object")
        .remedy("save the network's state dict: torch.save(model.state_dict(), …)"))
}

#[cfg(test)]
#[path = "torch_tests.rs"]
mod tests;
