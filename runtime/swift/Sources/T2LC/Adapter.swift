// A compiled adapter.

import CT2LC
import Foundation

/// A compiled adapter, in memory. It does not need its compiler any more.
public final class Adapter: @unchecked Sendable {
    /// A file of a PEFT directory, or the GGUF file.
    public struct File: Sendable {
        public let name: String
        public let data: Data
    }

    // Unchecked: the handle never changes, and the library takes it on any thread.
    private let handle: OpaquePointer
    /// Digest of everything that went in, `sha256:…`.
    public let recipe: String
    /// Digest of the bytes that came out.
    public let content: String
    /// Tokens of the description.
    public let tokens: Int
    /// Whether the description was longer than the encoder reads.
    public let isTruncated: Bool
    /// The nearest training tasks.
    public let similarity: Similarity

    init(taking handle: OpaquePointer) {
        self.handle = handle
        recipe = text(t2lc_adapter_recipe(handle))
        content = text(t2lc_adapter_content(handle))
        tokens = t2lc_adapter_tokens(handle)
        isTruncated = t2lc_adapter_truncated(handle)
        similarity = Similarity(taking: t2lc_adapter_similarity(handle))
    }

    deinit {
        t2lc_adapter_free(handle)
    }

    /// Number of files: 1 of a GGUF adapter, 2 of a PEFT adapter.
    public var fileCount: Int { t2lc_adapter_file_count(handle) }

    /// A copy of the first file: of a GGUF adapter, all there is.
    public var data: Data { withUnsafeBytes { Data($0) } }

    /// A copy of every file.
    public var files: [File] {
        (0..<fileCount).map { index in
            File(
                name: text(t2lc_adapter_file_name(handle, index)),
                data: withUnsafeBytes(ofFile: index) { Data($0) })
        }
    }

    /// The bytes of a file where they lie, by default of the first; valid during the call only.
    public func withUnsafeBytes<Result>(
        ofFile index: Int = 0, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) rethrows -> Result {
        precondition((0..<fileCount).contains(index), "the adapter has \(fileCount) files")
        // The bytes go when the handle is freed, which deinit must not do before body ends.
        return try withExtendedLifetime(self) {
            var size = 0
            let start = t2lc_adapter_file_bytes(handle, index, &size)
            return try body(UnsafeRawBufferPointer(start: start, count: size))
        }
    }

    /// Writes the GGUF file, or the PEFT directory, whole or not at all.
    public func write(to url: URL, overwrite: Bool = false) throws {
        var error: OpaquePointer?
        let status = withUTF8(url.path) { path, length in
            t2lc_adapter_write(handle, path, length, overwrite, &error)
        }
        guard status == T2LC_OK else { throw T2LCError(status: status, taking: error) }
    }
}
