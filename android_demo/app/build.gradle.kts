// For Android Studio. Not built in this project's CI: build_apk.py is what is tested.
// Once, and after every change of android_demo/packages.txt or native/palmtop.c, in the repository's root:
//   python android_demo/build_apk.py --gradle android_demo/app/prepared
// puts the runtimes' classes, the arm64 libraries and the assets (the packed model among them) where this file looks.
plugins {
    id("com.android.application") version "8.7.3"
}

android {
    namespace = "org.palmtop.app"
    compileSdk = 34

    defaultConfig {
        applicationId = "org.palmtop.app"
        minSdk = 24
        targetSdk = 34
        versionCode = 1
        versionName = "studio"
        ndk { abiFilters += "arm64-v8a" }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_1_8
        targetCompatibility = JavaVersion.VERSION_1_8
    }

    sourceSets.getByName("main") {
        manifest.srcFile("AndroidManifest.xml")
        java.setSrcDirs(listOf("../core/src", "logic", "src"))
        res.setSrcDirs(listOf("res"))
        assets.setSrcDirs(listOf("prepared/assets"))
        jniLibs.setSrcDirs(listOf("prepared/lib"))
    }

    packaging { jniLibs { useLegacyPackaging = true } }
}

dependencies {
    implementation(files("prepared/genai.jar"))
}
