// The error of every failed call.

import CT2LC
import Foundation

/// A call failed.
public struct T2LCError: Error, Sendable, Equatable, LocalizedError {
    /// What went wrong; the numbers are those of t2lc.h.
    public enum Status: Int32, Sendable {
        case argument = 1
        case description = 2
        case bundle = 3
        case backend = 4
        case compile = 5
        case output = 6
        case cancelled = 7
        case `internal` = 8
    }

    /// What went wrong, for programs.
    public let status: Status
    /// The same in detail, for example `bundle.digest`; stable.
    public let code: String
    /// The same for people, in one line.
    public let message: String

    public var errorDescription: String? { message }

    /// Takes the error that a call stored, and frees it.
    init(status: Int32, taking error: OpaquePointer?) {
        // A number that a newer library has.
        self.status = Status(rawValue: status) ?? .internal
        code = t2lc_error_code(error).map { String(cString: $0) } ?? "internal.no_error"
        message = t2lc_error_message(error).map { String(cString: $0) }
            ?? "t2lc failed with status \(status)"
        t2lc_error_free(error)
    }
}

/// Calls a function that may fail and gives out a handle.
func handle(
    _ call: (
        UnsafeMutablePointer<OpaquePointer?>, UnsafeMutablePointer<OpaquePointer?>
    ) -> Int32
) throws -> OpaquePointer {
    var result: OpaquePointer?
    var error: OpaquePointer?
    let status = call(&result, &error)
    guard status == T2LC_OK, let result else { throw T2LCError(status: status, taking: error) }
    return result
}

/// Text as the library takes it: its UTF-8 and how many bytes that is. Not a C string, because text
/// may contain NUL.
func withUTF8<Result>(
    _ text: String, _ body: (UnsafePointer<CChar>?, Int) throws -> Result
) rethrows -> Result {
    var text = text
    return try text.withUTF8 { utf8 in
        try utf8.withMemoryRebound(to: CChar.self) { try body($0.baseAddress, $0.count) }
    }
}

/// Text that came out of the library; empty for a handle that is gone, which does not happen.
func text(_ pointer: UnsafePointer<CChar>?) -> String {
    pointer.map { String(cString: $0) } ?? ""
}
