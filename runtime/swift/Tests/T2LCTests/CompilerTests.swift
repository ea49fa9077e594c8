// Tests of the package, with the bundle that T2LC_BUNDLE names.

import T2LC
import XCTest

final class CompilerTests: XCTestCase {
    private let text = "summarize legal text"

    private func bundle() throws -> URL {
        guard let path = ProcessInfo.processInfo.environment["T2LC_BUNDLE"] else {
            throw XCTSkip("set T2LC_BUNDLE to a bundle")
        }
        return URL(fileURLWithPath: path, isDirectory: true)
    }

    private func opened() throws -> Compiler {
        try Compiler(directory: bundle())
    }

    private func files() throws -> [URL] {
        try FileManager.default.contentsOfDirectory(at: bundle(), includingPropertiesForKeys: nil)
    }

    func testCompiles() throws {
        let compiler = try opened()
        let adapter = try compiler.compile(text)
        XCTAssertEqual(adapter.data.prefix(4), Data("GGUF".utf8))
        XCTAssertEqual(adapter.fileCount, 1)
        XCTAssertEqual(adapter.withUnsafeBytes { $0.count }, adapter.data.count)
        XCTAssertTrue(adapter.content.hasPrefix("sha256:"))
        XCTAssertEqual(adapter.similarity, try compiler.nearest(to: text))
        XCTAssertTrue(compiler.bundleDigest.hasPrefix("sha256:"))
        XCTAssertTrue(compiler.manifest.contains("\"base\""))
    }

    func testOptions() throws {
        let compiler = try opened()
        let small = try compiler.compile(text, options: .init(quantization: .q4_0))
        XCTAssertLessThan(small.data.count, try compiler.compile(text).data.count)
        let peft = try compiler.compile(text, options: .init(format: .peft))
        let names = ["adapter_model.safetensors", "adapter_config.json"]
        XCTAssertEqual(peft.files.map(\.name), names)
    }

    func testEveryWayToOpenMakesTheSame() throws {
        let expected = try opened().compile(text).content
        var memory: [String: Data] = [:]
        var ranges: [FileRange] = []
        var handles: [FileHandle] = []
        for url in try files() {
            let data = try Data(contentsOf: url)
            let file = try FileHandle(forReadingFrom: url)
            memory[url.lastPathComponent] = data
            handles.append(file)
            ranges.append(
                FileRange(
                    name: url.lastPathComponent, descriptor: file.fileDescriptor, offset: 0,
                    size: UInt64(data.count)))
        }
        XCTAssertEqual(try Compiler(files: memory).compile(text).content, expected)
        let mapped = try Compiler(ranges: ranges)
        handles.forEach { try? $0.close() }
        XCTAssertEqual(try mapped.compile(text).content, expected)
        let read = try Compiler(reader: MemoryReader(files: memory))
        XCTAssertEqual(try read.compile(text).content, expected)
    }

    func testErrors() throws {
        let compiler = try opened()
        XCTAssertThrowsError(try compiler.compile(" ")) { error in
            XCTAssertEqual((error as? T2LCError)?.status, .description)
            XCTAssertEqual((error as? T2LCError)?.code, "describe.empty")
            XCTAssertFalse(error.localizedDescription.isEmpty)
        }
        let missing = try bundle().appendingPathComponent("none")
        XCTAssertThrowsError(try Compiler(directory: missing)) { error in
            XCTAssertEqual((error as? T2LCError)?.status, .bundle)
        }
    }

    func testWritesWholeFiles() throws {
        let directory = FileManager.default.temporaryDirectory
            .appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let url = directory.appendingPathComponent("ü.gguf")
        let adapter = try opened().compile(text)
        try adapter.write(to: url)
        XCTAssertEqual(try Data(contentsOf: url), adapter.data)
        XCTAssertThrowsError(try adapter.write(to: url)) { error in
            XCTAssertEqual((error as? T2LCError)?.code, "output.exists")
        }
        try adapter.write(to: url, overwrite: true)
    }

    func testProgressCancels() throws {
        let compiler = try opened()
        let options = CompileOptions(progress: { stage, _, _ in stage != .generate })
        XCTAssertThrowsError(try compiler.compile(text, options: options)) { error in
            XCTAssertEqual((error as? T2LCError)?.status, .cancelled)
        }
        XCTAssertNoThrow(try compiler.compile(text))
    }

    func testAsynchronous() async throws {
        let compiler = try opened()
        let alone = try synchronous(compiler, text).content
        try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<4 {
                group.addTask { [text] in try await compiler.compile(text).content }
            }
            for try await content in group {
                XCTAssertEqual(content, alone)
            }
        }
    }

    func testCancelledTask() async throws {
        let compiler = try opened()
        let task = Task { [text] in
            // Cancelled by itself while it compiles, so that nothing depends on timing.
            let options = CompileOptions(progress: { stage, _, _ in
                if stage == .generate { Cancellation.shared.cancel() }
                return true
            })
            return try await compiler.compile(text, options: options)
        }
        Cancellation.shared.action = { task.cancel() }
        do {
            _ = try await task.value
            XCTFail("the task was not cancelled")
        } catch is CancellationError {}
    }

    private func synchronous(_ compiler: Compiler, _ text: String) throws -> Adapter {
        try compiler.compile(text)
    }
}

/// Lets a compile's own progress callback cancel the task that it runs in.
private final class Cancellation: @unchecked Sendable {
    static let shared = Cancellation()
    private let ready = DispatchSemaphore(value: 0)
    var action: (() -> Void)? {
        didSet { ready.signal() }
    }

    func cancel() {
        // The task may be here before its handle is known.
        ready.wait()
        ready.signal()
        action?()
    }
}

private struct MemoryReader: BundleReader {
    let files: [String: Data]

    func size(of name: String) -> Int64? {
        files[name].map { Int64($0.count) }
    }

    func read(
        _ name: String, at offset: UInt64, into buffer: UnsafeMutableRawBufferPointer
    ) -> Bool {
        guard let data = files[name], Int(offset) + buffer.count <= data.count else { return false }
        let start = data.startIndex + Int(offset)
        data.copyBytes(to: buffer, from: start..<(start + buffer.count))
        return true
    }
}
