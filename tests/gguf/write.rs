//! Writes valid and damaged GGUF files.

/// A GGUF file of version 3.
#[derive(Clone)]
pub struct File {
    pub version: u32,
    /// Name, type and bytes of each key's value.
    pub keys: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
}

#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    /// Extents, the innermost first.
    pub dimensions: Vec<u64>,
    pub kind: u32,
    pub data: Vec<u8>,
    /// Bytes to add to the offset in the header, as damage.
    pub offset: u64,
}

/// A change that damages a valid file.
pub type Change = dyn Fn(&mut File);

impl File {
    pub fn new(architecture: &str) -> Self {
        let mut file = Self { version: 3, keys: Vec::new(), tensors: Vec::new() };
        file.string("general.architecture", architecture);
        file
    }

    pub fn key(&mut self, name: &str, kind: u32, value: Vec<u8>) {
        self.keys.push((name.to_owned(), kind, value));
    }

    pub fn u32(&mut self, name: &str, value: u32) {
        self.key(name, 4, value.to_le_bytes().to_vec());
    }

    pub fn f32(&mut self, name: &str, value: f32) {
        self.key(name, 6, value.to_le_bytes().to_vec());
    }

    pub fn string(&mut self, name: &str, value: &str) {
        self.key(name, 8, string(value));
    }

    pub fn numbers(&mut self, name: &str, values: &[f32]) {
        let values = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.array(name, 6, values, 4);
    }

    pub fn strings(&mut self, name: &str, values: &[&str]) {
        let bytes = values.iter().flat_map(|v| string(v)).collect::<Vec<u8>>();
        self.key(name, 9, [&8u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &bytes].concat());
    }

    fn array(&mut self, name: &str, kind: u32, values: Vec<u8>, size: usize) {
        let count = (values.len() / size) as u64;
        self.key(name, 9, [&kind.to_le_bytes()[..], &count.to_le_bytes(), &values].concat());
    }

    pub fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, data: Vec<u8>) {
        let (name, dimensions) = (name.to_owned(), dimensions.to_vec());
        self.tensors.push(Tensor { name, dimensions, kind, data, offset: 0 });
    }

    pub fn floats(&mut self, name: &str, dimensions: &[u64], values: &[f32]) {
        self.tensor(name, dimensions, 0, values.iter().flat_map(|v| v.to_le_bytes()).collect());
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (name, kind, value) in &self.keys {
            out.extend(string(name));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            out.extend(string(&tensor.name));
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            tensor.dimensions.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((data.len() as u64).wrapping_add(tensor.offset).to_le_bytes());
            data.extend(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

pub fn string(value: &str) -> Vec<u8> {
    [&(value.len() as u64).to_le_bytes()[..], value.as_bytes()].concat()
}
