//! The API of Holdfast (`holdfast.dev/v1alpha1`) and the documents that lie in a store. Pure: no I/O.
