// What reads better in Kotlin than the Java methods, and opening a bundle among an app's assets.

package dev.t2lc

import android.content.res.AssetFileDescriptor
import android.content.res.AssetManager

/** Compiles one description on this thread: `compiler.compile(text) { scale(0.8f) }`. */
inline fun Compiler.compile(description: String, options: CompileOptions.() -> Unit): Adapter =
    compile(description, CompileOptions().apply(options))

/**
 * Opens a bundle among the assets, where they lie in the APK. They must be stored in it and not
 * compressed: `androidResources { noCompress += listOf("onnx", "json", "safetensors") }`.
 */
fun AssetManager.openBundle(folder: String, options: OpenOptions = OpenOptions()): Compiler {
    val files = mutableListOf<AssetFileDescriptor>()
    try {
        val ranges = list(folder).orEmpty().map { name ->
            val file = openFd("$folder/$name").also(files::add)
            FileRange(name, file.parcelFileDescriptor.fd, file.startOffset, file.length)
        }
        return Compiler.openRanges(ranges, options)
    } finally {
        files.forEach { it.close() }
    }
}
