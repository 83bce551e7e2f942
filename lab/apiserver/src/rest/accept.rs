//! What the caller wants to be answered: media type, and the shape of the objects.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

use crate::status::Status;

/// How bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The objects themselves.
    Plain(Format),
    /// `meta.k8s.io` `Table` in this version.
    Table(&'static str),
    /// `PartialObjectMetadata` in this version.
    Metadata(&'static str),
}

/// One media range of an Accept header: type and parameters.
pub(crate) struct Range<'a> {
    pub(crate) media_type: &'a str,
    pub(crate) parameters: Vec<(&'a str, &'a str)>,
}

impl Range<'_> {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }
}

/// The media ranges in the order of the caller's wish (quality values are not used by Kubernetes clients).
pub(crate) fn ranges(headers: &HeaderMap) -> Vec<Range<'_>> {
    let texts = headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default();
            Range {
                media_type,
                parameters: parts.filter_map(|p| p.split_once('=')).collect(),
            }
        })
        .filter(|r| !r.media_type.is_empty())
        .collect()
}

/// Chooses for an object or a list. Errors: 406.
pub(crate) fn negotiate(headers: &HeaderMap) -> Result<Shape, Status> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(Shape::Plain(Format::Json));
    }
    ranges.iter().find_map(shape).ok_or_else(Status::not_acceptable)
}

fn shape(range: &Range<'_>) -> Option<Shape> {
    let format = match range.media_type {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let version = match range.parameter("v") {
        Some("v1beta1") => "v1beta1",
        Some("v1") | None => "v1",
        Some(_) => return None,
    };
    match range.parameter("as") {
        None => Some(Shape::Plain(format)),
        Some(_) if range.parameter("g") != Some("meta.k8s.io") || format != Format::Json => None,
        Some("Table") => Some(Shape::Table(version)),
        Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Shape::Metadata(version)),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn rows() {
        let rows = [
            ("", Some(Shape::Plain(Format::Json))),
            ("application/json", Some(Shape::Plain(Format::Json))),
            ("*/*", Some(Shape::Plain(Format::Json))),
            ("application/yaml", Some(Shape::Plain(Format::Yaml))),
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some(Shape::Table("v1")),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io",
                Some(Shape::Table("v1beta1")),
            ),
            (
                "application/json;as=Table;v=v7;g=meta.k8s.io, application/json",
                Some(Shape::Plain(Format::Json)),
            ),
            (
                "application/vnd.kubernetes.protobuf,application/json",
                Some(Shape::Plain(Format::Json)),
            ),
            (
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
                Some(Shape::Metadata("v1")),
            ),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ];
        for (text, wanted) in rows {
            let mut headers = HeaderMap::new();
            if !text.is_empty() {
                headers.insert(ACCEPT, HeaderValue::from_static(text));
            }
            assert_eq!(negotiate(&headers).ok(), wanted, "{text}");
        }
    }
}
