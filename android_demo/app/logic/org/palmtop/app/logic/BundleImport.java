package org.palmtop.app.logic;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Locale;
import java.util.Map;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.bundle.Json;
import org.palmtop.core.bundle.Manifest;
import org.palmtop.core.bundle.PalmtopBundle;

/**
 * Copies a model from where the phone can only stream it (a picked folder, the app's assets) to a folder of files,
 * checking every byte on the way. The model appears whole or not at all.
 */
public final class BundleImport {
    static final String MANIFEST = "bundle.json";
    private static final int MAX_MANIFEST_BYTES = 16 << 20;
    private static final int BLOCK_BYTES = 1 << 18;
    /** Left free for the rest of the phone. */
    static final long SPARE_BYTES = 64L << 20;

    /** Source of the model's files. */
    public interface Source {
        /** A file by its path below the model's folder, "/"-separated. */
        InputStream open(String path) throws IOException;
    }

    /** Hears how far it is, on the thread that imports. */
    public interface Progress {
        void onBytes(long done, long total);
    }

    /** Free space of the phone at a path. */
    public interface FreeSpace {
        long bytes(File folder);
    }

    private final ModelShelf shelf;
    private final FreeSpace freeSpace;
    private volatile boolean isCancelled;

    public BundleImport(ModelShelf shelf, FreeSpace freeSpace) {
        this.shelf = shelf;
        this.freeSpace = freeSpace;
    }

    /** From any thread; {@link #run} then gives null and leaves nothing behind. */
    public void cancel() {
        isCancelled = true;
    }

    /**
     * Copy and check. Blocks.
     *
     * @param name what to call it, e.g. the picked folder's name.
     * @return the model's folder, or null when it was cancelled.
     * @throws IOException it cannot be read or written, or there is no room ({@link Trouble.OutOfStorage}).
     * @throws PalmtopException it is no model, or a damaged one; the message names the file.
     */
    public File run(Source source, String name, Progress progress) throws IOException {
        String text = readManifest(source);
        Manifest manifest = parse(text);
        long total = 0;
        for (Map.Entry<String, Manifest.BundleFile> file : manifest.files.entrySet()) {
            checkPath(file.getKey());
            total += file.getValue().sizeBytes;
        }
        File home = shelf.home();
        if (!home.isDirectory() && !home.mkdirs()) {
            throw new IOException(home + " cannot be made");
        }
        long free = freeSpace.bytes(home);
        if (total + SPARE_BYTES > free) {
            throw new Trouble.OutOfStorage(total + SPARE_BYTES, free);
        }
        File beside = new File(home, ModelShelf.UNFINISHED + System.nanoTime());
        try {
            long done = 0;
            for (Map.Entry<String, Manifest.BundleFile> file : manifest.files.entrySet()) {
                done = copy(source, file.getKey(), file.getValue(), beside, done, total, progress);
                if (isCancelled) {
                    return null;
                }
            }
            TextFile.write(new File(beside, MANIFEST), text);
            PalmtopBundle.open(beside);
            File folder = shelf.freeName(name);
            if (!beside.renameTo(folder)) {
                throw new IOException(folder + " cannot be made");
            }
            return folder;
        } finally {
            ModelShelf.deleteTree(beside);
        }
    }

    private static String readManifest(Source source) throws IOException {
        try (InputStream stream = source.open(MANIFEST)) {
            return TextFile.read(stream, MAX_MANIFEST_BYTES);
        }
    }

    private static Manifest parse(String text) {
        try {
            return Manifest.read(Json.parse(text));
        } catch (IOException error) {
            throw PalmtopException.bundle(MANIFEST + ": is not valid JSON (" + error.getMessage() + ")");
        }
    }

    /** Refuses names that lead out of the model's folder. */
    private static void checkPath(String path) {
        boolean climbs = false;
        for (String part : path.split("/", -1)) {
            climbs |= part.isEmpty() || part.equals(".") || part.equals("..");
        }
        if (climbs || path.indexOf('\\') >= 0 || path.indexOf(':') >= 0 || path.indexOf('\0') >= 0) {
            throw PalmtopException.bundle(MANIFEST + ": file name '" + path + "' leads out of the bundle");
        }
    }

    private long copy(
            Source source, String path, Manifest.BundleFile expected, File beside, long before, long total,
            Progress progress) throws IOException {
        File target = new File(beside, path);
        File parent = target.getParentFile();
        if (!parent.isDirectory() && !parent.mkdirs()) {
            throw new IOException(parent + " cannot be made");
        }
        MessageDigest digest = sha256();
        long done = 0;
        try (InputStream stream = openListed(source, path);
                OutputStream out = new FileOutputStream(target)) {
            byte[] block = new byte[BLOCK_BYTES];
            for (int count = stream.read(block); count >= 0 && !isCancelled; count = stream.read(block)) {
                done += count;
                if (done > expected.sizeBytes) {
                    break; // longer than it says: no need to fill the phone to find out how much
                }
                digest.update(block, 0, count);
                out.write(block, 0, count);
                progress.onBytes(before + done, total);
            }
        }
        if (isCancelled) {
            return before;
        }
        if (done != expected.sizeBytes) {
            String found = done > expected.sizeBytes ? "more" : done + " bytes";
            throw PalmtopException.bundle(
                    "file '" + path + "' has " + found + ", expected " + expected.sizeBytes + " bytes");
        }
        String found = hex(digest.digest());
        if (!found.equals(expected.sha256)) {
            throw PalmtopException.bundle("file '" + path + "' has sha256 " + found.substring(0, 12)
                    + "..., expected " + expected.sha256.substring(0, 12) + "...");
        }
        return before + done;
    }

    private static InputStream openListed(Source source, String path) throws IOException {
        try {
            return source.open(path);
        } catch (java.io.FileNotFoundException error) {
            throw PalmtopException.bundle("file '" + path + "' is missing");
        }
    }

    private static MessageDigest sha256() {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error); // every Android has it
        }
    }

    private static String hex(byte[] bytes) {
        StringBuilder text = new StringBuilder();
        for (byte value : bytes) {
            text.append(String.format(Locale.ROOT, "%02x", value & 0xff));
        }
        return text.toString();
    }
}
