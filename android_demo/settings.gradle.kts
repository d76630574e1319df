// For Android Studio. Not built in this project's CI: build_apk.py is what is tested.
pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "palmtop"
include(":app")
