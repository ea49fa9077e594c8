// How bundles are opened and descriptions compiled.

import CT2LC

/// What computes the networks.
public enum Backend: UInt32, Sendable {
    /// `exact`, unless bundle or provider need another one.
    case automatic = 0
    /// The same bytes on every machine.
    case exact = 1
    case tract = 2
    /// ONNX Runtime.
    case ort = 3
}

/// Form of an adapter.
public enum Format: UInt32, Sendable {
    /// One GGUF file, for llama.cpp.
    case gguf = 0
    /// The two files of a PEFT directory.
    case peft = 1
}

/// Type of an adapter's tensors.
public enum Quantization: UInt32, Sendable {
    /// `q8_0` for GGUF, `f32` for PEFT.
    case standard = 0
    case f32 = 1
    case f16 = 2
    case bf16 = 3
    case q8_0 = 4
    case q4_0 = 5
    case q4_1 = 6
    case q5_0 = 7
    case q5_1 = 8
}

/// What a compile is doing.
public enum Stage: UInt32, Sendable {
    case encode = 1
    case generate = 2
    case quantize = 3
    case write = 4
}

/// How a bundle is opened.
public struct OpenOptions: Sendable {
    public var backend: Backend
    /// Threads of the exact backend; 0 for as many as the system offers, at most 8.
    public var threads: UInt32
    /// ONNX Runtime's execution provider by name, for example `coreml`; nil for the best one.
    public var provider: String?

    public init(backend: Backend = .automatic, threads: UInt32 = 0, provider: String? = nil) {
        self.backend = backend
        self.threads = threads
        self.provider = provider
    }

    /// The options as the library takes them, valid during the call.
    func withC<Result>(
        _ body: (UnsafePointer<t2lc_open_options>) throws -> Result
    ) throws -> Result {
        var options = t2lc_open_options()
        let size = UInt32(MemoryLayout<t2lc_open_options>.size)
        let status = t2lc_open_options_init(&options, size)
        guard status == T2LC_OK else { throw T2LCError(status: status, taking: nil) }
        options.backend = backend.rawValue
        options.threads = threads
        guard let provider else { return try withUnsafePointer(to: options, body) }
        return try withUTF8(provider) { name, length in
            options.provider = name
            options.provider_length = length
            return try withUnsafePointer(to: options, body)
        }
    }
}

/// What is made of a description.
public struct CompileOptions: Sendable {
    public var format: Format
    public var quantization: Quantization
    /// Strength of the adapter: 1 as trained, 0 for none.
    public var scale: Float
    /// Is told how far a compile is, on the thread that compiles: done of total in one stage.
    /// Returning false cancels. It must not wait for anything that waits for this compile.
    public var progress: (@Sendable (Stage, _ done: UInt64, _ total: UInt64) -> Bool)?

    public init(
        format: Format = .gguf,
        quantization: Quantization = .standard,
        scale: Float = 1,
        progress: (@Sendable (Stage, _ done: UInt64, _ total: UInt64) -> Bool)? = nil
    ) {
        self.format = format
        self.quantization = quantization
        self.scale = scale
        self.progress = progress
    }
}
