package org.palmtop.core.bundle;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.util.LinkedHashMap;
import java.util.Map;
import org.palmtop.core.PalmtopException;

/** A bundle that has been opened: its folder and its manifest, checked by the rules of {@code runtime/bundle/opening.py}. */
public final class PalmtopBundle {
    private static final long MAX_MANIFEST_BYTES = 16L << 20;

    private final File folder;
    private final Manifest manifest;

    private PalmtopBundle(File folder, Manifest manifest) {
        this.folder = folder;
        this.manifest = manifest;
    }

    /** Read the manifest and check every file's place and size; {@link #checkHashes} does the rest. */
    public static PalmtopBundle open(File folder) {
        Manifest manifest = readManifest(folder);
        for (Map.Entry<String, Manifest.BundleFile> entry : manifest.files.entrySet()) {
            File path = BundleFiles.inside(folder, entry.getKey());
            if (!path.isFile()) {
                throw PalmtopException.bundle(folder + ": file '" + entry.getKey() + "' is missing");
            }
            if (path.length() != entry.getValue().sizeBytes) {
                throw PalmtopException.bundle(folder + ": file '" + entry.getKey() + "' has " + path.length()
                        + " bytes, expected " + entry.getValue().sizeBytes);
            }
        }
        BundleFiles.refuseUnlisted(folder, manifest);
        return new PalmtopBundle(folder, manifest);
    }

    public File folder() {
        return folder;
    }

    public Manifest manifest() {
        return manifest;
    }

    /** The path of one of the bundle's files. */
    public File file(String name) {
        return new File(folder, name);
    }

    /** Contents of chat_template.jinja. */
    public String chatTemplate() {
        File path = file("chat_template.jinja");
        try {
            return BundleFiles.readText(path, MAX_MANIFEST_BYTES);
        } catch (IOException error) {
            throw PalmtopException.bundle(
                    path + ": cannot be read (" + error.getMessage() + "), expected the model's chat template");
        }
    }

    /** Total bytes of the files in the manifest. */
    public long sizeBytes() {
        long sum = 0;
        for (Manifest.BundleFile file : manifest.files.values()) {
            sum += file.sizeBytes;
        }
        return sum;
    }

    /**
     * Compare every file's sha256 with the manifest.
     *
     * @param remembered where earlier results are kept: a file is trusted again whose size and time have not changed;
     *     null to read everything. It must lie outside the bundle.
     * @param told null, or called for every block read.
     */
    public void checkHashes(File remembered, BundleProgress told) {
        Map<String, Object> known = remembered == null ? new LinkedHashMap<String, Object>() : recall(remembered);
        Map<String, Object> seen = new LinkedHashMap<String, Object>();
        for (Map.Entry<String, Manifest.BundleFile> entry : manifest.files.entrySet()) {
            File path = file(entry.getKey());
            String expected = entry.getValue().sha256;
            String mark = path.length() + ":" + path.lastModified() + ":" + expected;
            if (!mark.equals(known.get(entry.getKey()))) {
                String found = BundleFiles.sha256(path, told);
                if (!found.equals(expected)) {
                    throw PalmtopException.bundle(folder + ": file '" + entry.getKey() + "' has sha256 "
                            + found.substring(0, 12) + "..., expected " + expected.substring(0, 12) + "...");
                }
            }
            seen.put(entry.getKey(), mark);
        }
        if (remembered != null && !seen.equals(known)) {
            remember(remembered, seen);
        }
    }

    private static Manifest readManifest(File folder) {
        File path = new File(folder, JsonFields.MANIFEST_FILE);
        if (!path.isFile()) {
            throw PalmtopException.bundle(folder + ": no " + JsonFields.MANIFEST_FILE
                    + " there, expected a bundle folder written by 'palmtop export'");
        }
        return Manifest.read(BundleFiles.readJson(path, MAX_MANIFEST_BYTES, "is not valid JSON"));
    }

    private static Map<String, Object> recall(File path) {
        try {
            Object data = Json.parse(BundleFiles.readText(path, MAX_MANIFEST_BYTES));
            return data instanceof Map ? JsonFields.object(data) : new LinkedHashMap<String, Object>();
        } catch (IOException | PalmtopException error) { // none yet, or not ours: everything is read again
            return new LinkedHashMap<String, Object>();
        }
    }

    private static void remember(File path, Map<String, Object> seen) {
        StringBuilder text = new StringBuilder("{");
        for (Map.Entry<String, Object> entry : seen.entrySet()) {
            text.append(text.length() > 1 ? ",\n" : "\n");
            text.append(JsonText.quote(entry.getKey())).append(": ");
            text.append(JsonText.quote((String) entry.getValue()));
        }
        File beside = new File(path.getPath() + ".new");
        try (OutputStream stream = new FileOutputStream(beside)) {
            stream.write(text.append("\n}\n").toString().getBytes(BundleFiles.UTF_8));
        } catch (IOException error) {
            return; // a full disk only costs the next opening its hashes again
        }
        if (!beside.renameTo(path)) {
            beside.delete();
        }
    }
}
