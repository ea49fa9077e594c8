// swift-tools-version:5.9
// The Swift package: T2LC over the C interface of t2lc-runtime.
//
// In an app, T2LC_XCFRAMEWORK names the framework that build-xcframework.sh made, relative to this
// folder. Without it, the library must be where the linker looks: swift test -Xlinker -LFOLDER.
import Foundation
import PackageDescription

let library: Target
if let framework = ProcessInfo.processInfo.environment["T2LC_XCFRAMEWORK"] {
    library = .binaryTarget(name: "CT2LC", path: framework)
} else {
    library = .systemLibrary(name: "CT2LC", path: "Sources/CT2LC")
}

let package = Package(
    name: "T2LC",
    platforms: [.iOS(.v15), .macOS(.v12)],
    products: [.library(name: "T2LC", targets: ["T2LC"])],
    targets: [
        library,
        .target(name: "T2LC", dependencies: ["CT2LC"]),
        .testTarget(name: "T2LCTests", dependencies: ["T2LC"]),
    ]
)
