// An opened bundle.

import CT2LC
import Foundation

/// A file of a bundle as a range of an open file.
public struct FileRange: Sendable {
    public var name: String
    /// Readable and mappable; may be closed once the compiler is there.
    public var descriptor: Int32
    public var offset: UInt64
    public var size: UInt64

    public init(name: String, descriptor: Int32, offset: UInt64, size: UInt64) {
        self.name = name
        self.descriptor = descriptor
        self.offset = offset
        self.size = size
    }
}

/// An app's own way to the files of a bundle. It is asked while a compiler is opened only.
public protocol BundleReader {
    /// Size of a file in bytes, nil if there is none.
    func size(of name: String) -> Int64?
    /// Fills all of `buffer` from `offset` on; false if it cannot.
    func read(_ name: String, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer) -> Bool
}

/// An opened bundle, ready to compile. Any thread may use it, several at once.
public final class Compiler: @unchecked Sendable {
    // Unchecked: the handle never changes, and the library takes it on any thread.
    private let handle: OpaquePointer
    /// `manifest.json` of the bundle: base model, encoder, licences.
    public let manifest: String
    /// Digest of the bundle, `sha256:…`.
    public let bundleDigest: String
    /// Class of arithmetic, for example `exact/1`.
    public let backend: String

    /// Opens a `NAME.t2lc` directory; its files are mapped into memory, not read.
    public convenience init(directory: URL, options: OpenOptions = .init()) throws {
        let opened = try options.withC { options in
            try withUTF8(directory.path) { path, length in
                try T2LC.handle { t2lc_open_directory(path, length, options, $0, $1) }
            }
        }
        self.init(taking: opened)
    }

    /// Opens the files of a bundle by name; the bytes are copied.
    public convenience init(files: [String: Data], options: OpenOptions = .init()) throws {
        let files = files.map { (name: $0.key, data: NSData(data: $0.value)) }
        let opened = try options.withC { options in
            try withNames(files.map(\.name)) { names in
                // NSData's bytes stay where they are while it lives, unlike those of Data.
                let entries = zip(files, names).map { file, name in
                    t2lc_file_bytes(
                        name: name.start, name_length: name.length,
                        bytes: file.data.bytes.assumingMemoryBound(to: UInt8.self),
                        size: file.data.length)
                }
                return try withExtendedLifetime(files) {
                    try T2LC.handle { t2lc_open_bytes(entries, entries.count, options, $0, $1) }
                }
            }
        }
        self.init(taking: opened)
    }

    /// Opens ranges of open files, which are mapped.
    public convenience init(ranges: [FileRange], options: OpenOptions = .init()) throws {
        let opened = try options.withC { options in
            try withNames(ranges.map(\.name)) { names in
                let entries = zip(ranges, names).map { range, name in
                    t2lc_file_range(
                        name: name.start, name_length: name.length, descriptor: range.descriptor,
                        offset: range.offset, size: range.size)
                }
                return try T2LC.handle {
                    t2lc_open_ranges(entries, entries.count, options, $0, $1)
                }
            }
        }
        self.init(taking: opened)
    }

    /// Opens files through an app's own reader.
    public convenience init(reader: any BundleReader, options: OpenOptions = .init()) throws {
        let box = Box<any BundleReader>(reader)
        let opened = try options.withC { options in
            var functions = t2lc_reader()
            functions.struct_size = UInt32(MemoryLayout<t2lc_reader>.size)
            functions.context = Unmanaged.passUnretained(box).toOpaque()
            functions.size = { name, length, context in
                let reader: any BundleReader = Box.value(context)
                return reader.size(of: fileName(name, length)) ?? -1
            }
            functions.read = { name, length, offset, into, size, context in
                let reader: any BundleReader = Box.value(context)
                let buffer = UnsafeMutableRawBufferPointer(start: into, count: size)
                return reader.read(fileName(name, length), at: offset, into: buffer)
            }
            return try withExtendedLifetime(box) {
                try T2LC.handle { t2lc_open_reader(&functions, options, $0, $1) }
            }
        }
        self.init(taking: opened)
    }

    private init(taking handle: OpaquePointer) {
        self.handle = handle
        manifest = text(t2lc_compiler_manifest(handle))
        bundleDigest = text(t2lc_compiler_bundle_digest(handle))
        backend = text(t2lc_compiler_backend(handle))
    }

    deinit {
        t2lc_compiler_free(handle)
    }

    /// Compiles one description on this thread, which waits for it.
    public func compile(_ description: String, options: CompileOptions = .init()) throws -> Adapter {
        var c = t2lc_compile_options()
        let size = UInt32(MemoryLayout<t2lc_compile_options>.size)
        let status = t2lc_compile_options_init(&c, size)
        guard status == T2LC_OK else { throw T2LCError(status: status, taking: nil) }
        c.format = options.format.rawValue
        c.quantization = options.quantization.rawValue
        c.scale = options.scale

        let box = Box(options.progress)
        if options.progress != nil {
            c.context = Unmanaged.passUnretained(box).toOpaque()
            c.progress = { stage, done, total, context in
                // A stage that a newer library has is not reported.
                guard let stage = Stage(rawValue: stage) else { return true }
                let progress: (@Sendable (Stage, UInt64, UInt64) -> Bool)? = Box.value(context)
                return progress?(stage, done, total) ?? true
            }
        }
        // Neither may be freed by the last use of it that Swift sees: the library still has them.
        return try withExtendedLifetime((self, box)) {
            let made = try withUTF8(description) { utf8, length in
                try T2LC.handle { t2lc_compile(handle, utf8, length, &c, $0, $1) }
            }
            return Adapter(taking: made)
        }
    }

    /// Compiles one description away from the caller's thread. Cancelling the task ends it with
    /// `CancellationError`.
    public func compile(
        _ description: String, options: CompileOptions = .init()
    ) async throws -> Adapter {
        let cancelled = Flag()
        var watched = options
        let progress = options.progress
        watched.progress = { stage, done, total in
            !cancelled.isSet && progress?(stage, done, total) ?? true
        }
        let requested = watched
        return try await withTaskCancellationHandler {
            try Task.checkCancellation()
            // Not on Swift's own threads, which must not be kept busy for long.
            return try await withCheckedThrowingContinuation { continuation in
                DispatchQueue.global(qos: .userInitiated).async {
                    continuation.resume(
                        with: Result {
                            do {
                                return try self.compileNow(description, requested)
                            } catch let error as T2LCError
                                where error.status == .cancelled && cancelled.isSet
                            {
                                throw CancellationError()
                            }
                        })
                }
            }
        } onCancel: {
            cancelled.set()
        }
    }

    // Names the one that waits, whatever the context.
    private func compileNow(_ description: String, _ options: CompileOptions) throws -> Adapter {
        try compile(description, options: options)
    }

    /// The `count` training tasks that a description is nearest to, without compiling it.
    public func nearest(to description: String, count: Int = 3) throws -> Similarity {
        precondition(count >= 0, "count is \(count)")
        return try withExtendedLifetime(self) {
            let found = try withUTF8(description) { utf8, length in
                try T2LC.handle { t2lc_nearest(handle, utf8, length, count, $0, $1) }
            }
            return Similarity(taking: found)
        }
    }
}

/// A value behind a pointer that C passes on.
private final class Box<Value> {
    let value: Value

    init(_ value: Value) {
        self.value = value
    }

    static func value(_ context: UnsafeMutableRawPointer?) -> Value {
        Unmanaged<Box<Value>>.fromOpaque(context!).takeUnretainedValue().value
    }
}

/// Set once, from any thread.
private final class Flag: @unchecked Sendable {
    private let lock = NSLock()
    private var value = false

    var isSet: Bool {
        lock.lock()
        defer { lock.unlock() }
        return value
    }

    func set() {
        lock.lock()
        defer { lock.unlock() }
        value = true
    }
}

private func fileName(_ name: UnsafePointer<CChar>?, _ length: Int) -> String {
    let bytes = UnsafeRawBufferPointer(start: name, count: length)
    return String(decoding: bytes, as: UTF8.self)
}

/// The UTF-8 of every name, valid during the call.
private func withNames<Result>(
    _ names: [String], _ body: ([(start: UnsafePointer<CChar>?, length: Int)]) throws -> Result
) rethrows -> Result {
    let lengths = names.map(\.utf8.count)
    let joined = names.flatMap { $0.utf8.map { CChar(bitPattern: $0) } }
    return try joined.withUnsafeBufferPointer { buffer in
        var offset = 0
        let pointers = lengths.map { length -> (start: UnsafePointer<CChar>?, length: Int) in
            defer { offset += length }
            return (buffer.baseAddress.map { $0 + offset }, length)
        }
        return try body(pointers)
    }
}
