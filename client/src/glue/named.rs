//! Modules under names that are known at run time.

use burn::module::{Content, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
use burn::tensor::Device;

/// Modules of one type, one per name, such as an encoder per modality.
///
/// A plain `Vec` of modules would name them `0`, `1`, ... in paths, which change when a modality is added.
#[derive(Debug, Clone)]
pub struct Named<M> {
    entries: Vec<(String, M)>,
}

impl<M> Named<M> {
    /// From names and modules, in this order.
    pub fn new(entries: Vec<(String, M)>) -> Self {
        Self { entries }
    }

    /// The module at this position. Panics if there is none, as slices do.
    pub fn at(&self, index: usize) -> &M {
        &self.entries[index].1
    }

    fn each(self, f: impl Fn(M) -> M) -> Self {
        Self { entries: self.entries.into_iter().map(|(name, module)| (name, f(module))).collect() }
    }
}

impl<M: Module> Module for Named<M> {
    fn collect_devices(&self, devices: Vec<Device>) -> Vec<Device> {
        self.entries.iter().fold(devices, |devices, (_, module)| module.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|module| module.to_device(device))
    }

    fn train(self) -> Self {
        self.each(Module::train)
    }

    fn valid(&self) -> Self {
        Self { entries: self.entries.iter().map(|(name, module)| (name.clone(), module.valid())).collect() }
    }

    fn materialize(self) -> Self {
        self.each(Module::materialize)
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, module) in &self.entries {
            visitor.enter_module(name, "Named");
            module.visit(visitor);
            visitor.exit_module(name, "Named");
        }
    }

    fn map<T: ModuleMapper>(self, mapper: &mut T) -> Self {
        let mut entries = Vec::with_capacity(self.entries.len());
        for (name, module) in self.entries {
            mapper.enter_module(&name, "Named");
            let module = module.map(mapper);
            mapper.exit_module(&name, "Named");
            entries.push((name, module));
        }
        Self { entries }
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Named<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.entries.iter().fold(content, |content, (name, module)| content.add(name, module)).optional()
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Named<M> {}
