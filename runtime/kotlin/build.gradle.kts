// The Android library: Java and Kotlin sources, and libt2lc_jni.so for four ABIs.
//
// Needs ANDROID_HOME, ANDROID_NDK_HOME and cargo with the four Android targets. FEATURES, a property
// (-PFEATURES=tract), names features of t2lc-runtime besides capi.

import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.library") version "8.7.3"
    id("org.jetbrains.kotlin.android") version "2.0.21"
}

val libraries = layout.buildDirectory.dir("t2lc")

android {
    namespace = "dev.t2lc"
    compileSdk = 35
    // The same NDK for cargo and for CMake.
    System.getenv("ANDROID_NDK_HOME")?.let { ndkPath = it }

    defaultConfig {
        // That of build-android.sh.
        minSdk = 24
        consumerProguardFiles("consumer-rules.pro")
        ndk {
            abiFilters += listOf("arm64-v8a", "armeabi-v7a", "x86_64", "x86")
        }
        externalNativeBuild {
            cmake {
                val path = libraries.get().asFile.path
                arguments("-DT2LC_LIBRARY=$path/@ANDROID_ABI@/libt2lc_runtime.a")
            }
        }
    }

    externalNativeBuild {
        cmake {
            path = file("src/main/cpp/CMakeLists.txt")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }
}

kotlin {
    compilerOptions {
        jvmTarget.set(JvmTarget.JVM_1_8)
    }
}

val buildRuntime = tasks.register<Exec>("buildRuntime") {
    description = "Builds libt2lc_runtime.a for every ABI."
    commandLine("./build-android.sh", libraries.get().asFile.path)
    providers.gradleProperty("FEATURES").orNull?.let { environment("FEATURES", it) }
    // cargo knows what is up to date.
    outputs.upToDateWhen { false }
}

// CMake looks for the libraries when it is configured.
tasks.matching { it.name.startsWith("configureCMake") }.configureEach {
    dependsOn(buildRuntime)
}
