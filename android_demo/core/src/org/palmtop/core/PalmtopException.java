package org.palmtop.core;

/** Problem that a user can cause: one sentence of what, where, found and expected, as in the Python runtime. */
public final class PalmtopException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    /** Corresponding error of the Python runtime. */
    public enum Kind { BUNDLE, BUNDLE_VERSION, INPUT, MEMORY, INTERNAL }

    private final Kind kind;
    /** Of a value of the manifest, as Python's ManifestError has them; null elsewhere. */
    private String code;

    private String path;

    public PalmtopException(Kind kind, String message) {
        super(message);
        this.kind = kind;
    }

    public PalmtopException(Kind kind, String message, Throwable cause) {
        super(message, cause);
        this.kind = kind;
    }

    public static PalmtopException bundle(String message) {
        return new PalmtopException(Kind.BUNDLE, message);
    }

    /** A wrong value of the manifest: "missing", "unknown", "type", "range", "choice" or "value", and its place. */
    public static PalmtopException manifest(String code, String path, String message) {
        PalmtopException error = bundle(message);
        error.code = code;
        error.path = path;
        return error;
    }

    public String code() {
        return code;
    }

    public String path() {
        return path;
    }

    public static PalmtopException input(String message) {
        return new PalmtopException(Kind.INPUT, message);
    }

    public Kind kind() {
        return kind;
    }

    /** A headline in words that need no knowledge of files and tensors; {@code getMessage} is the detail below it. */
    public String headline() {
        switch (kind) {
            case BUNDLE:
                return "This model is damaged or incomplete. Copy it to the phone again.";
            case BUNDLE_VERSION:
                return "This model was made by a newer version. Update the app.";
            case INPUT:
                return "That cannot be answered as it is.";
            case MEMORY:
                return "The phone does not have enough free memory for this.";
            default:
                return "Something went wrong inside the app.";
        }
    }
}
