package org.palmtop.app.logic;

import java.io.FileNotFoundException;
import java.io.IOException;
import org.palmtop.core.PalmtopException;

/** Kinds of failures for a phone user; each has a text in strings.xml ({@code trouble_*}). */
public enum Trouble {
    MODEL_DAMAGED,
    MODEL_TOO_NEW,
    MODEL_MISSING,
    CANNOT_ANSWER,
    MEMORY,
    STORAGE_FULL,
    UNREADABLE,
    PHOTO_TOO_LARGE,
    RECORDING_FAILED,
    SOUND_TOO_LONG,
    SOUND_UNSUPPORTED,
    PICTURE_UNSUPPORTED,
    INTERNAL;

    /** Kind of an exception. */
    public static Trouble of(Throwable error) {
        for (Throwable cause = error; cause != null; cause = cause.getCause()) {
            if (cause instanceof OutOfMemoryError) {
                return MEMORY;
            }
            if (cause instanceof OutOfStorage || isFullDisk(cause)) {
                return STORAGE_FULL;
            }
            if (cause instanceof SoundImport.TooLong) {
                return SOUND_TOO_LONG;
            }
            if (cause instanceof PhotoTooLarge) {
                return PHOTO_TOO_LARGE;
            }
        }
        if (error instanceof PalmtopException) {
            switch (((PalmtopException) error).kind()) {
                case BUNDLE:
                    return MODEL_DAMAGED;
                case BUNDLE_VERSION:
                    return MODEL_TOO_NEW;
                case INPUT:
                    return CANNOT_ANSWER;
                case MEMORY:
                    return MEMORY;
                default:
                    return INTERNAL;
            }
        }
        return error instanceof IOException || error instanceof SecurityException ? UNREADABLE : INTERNAL;
    }

    /** The sentence below the words: the exception's own. */
    public static String detail(Throwable error) {
        String message = error.getMessage();
        boolean isOurs = error instanceof PalmtopException
                || error instanceof OutOfStorage
                || error instanceof PhotoTooLarge
                || error instanceof SoundImport.TooLong;
        return isOurs
                ? message
                : error.getClass().getSimpleName() + (message == null ? "" : ": " + message);
    }

    /** Android's and Linux' words for errno 28; there is no type for it in Java 8. */
    private static boolean isFullDisk(Throwable error) {
        String message = error instanceof IOException && !(error instanceof FileNotFoundException)
                ? error.getMessage()
                : null;
        return message != null && (message.contains("ENOSPC") || message.contains("No space left"));
    }

    /** More pixels than the app decodes. */
    public static final class PhotoTooLarge extends IOException {
        private static final long serialVersionUID = 1L;

        public PhotoTooLarge(int width, int height) {
            super(width + " × " + height);
        }
    }

    /** Not enough room before anything was written. */
    public static final class OutOfStorage extends IOException {
        private static final long serialVersionUID = 1L;

        public final long neededBytes;
        public final long freeBytes;

        public OutOfStorage(long neededBytes, long freeBytes) {
            super("needs " + Sizes.text(neededBytes) + ", " + Sizes.text(freeBytes) + " are free");
            this.neededBytes = neededBytes;
            this.freeBytes = freeBytes;
        }
    }
}
