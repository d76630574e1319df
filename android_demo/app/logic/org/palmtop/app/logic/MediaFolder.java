package org.palmtop.app.logic;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** The pictures and sounds that the chat's messages hold, as files of the app's own. */
public final class MediaFolder {
    private static final int BLOCK_BYTES = 1 << 18;

    private MediaFolder() {}

    /** Remove the files that these messages hold. */
    static void remove(File folder, List<Entry> entries) {
        for (Entry entry : entries) {
            for (Attachment attachment : entry.attachments) {
                new File(folder, new File(attachment.path).getName()).delete();
            }
        }
    }

    /** Remove files that no message holds any more. */
    public static void sweep(File folder, List<Entry> entries) {
        Set<String> held = new HashSet<String>();
        for (Entry entry : entries) {
            for (Attachment attachment : entry.attachments) {
                held.add(new File(attachment.path).getName());
            }
        }
        File[] files = folder.listFiles();
        for (File file : files == null ? new File[0] : files) {
            if (!held.contains(file.getName())) {
                file.delete();
            }
        }
    }

    /**
     * Copy what the phone only streams into the folder.
     *
     * @param freeBytes room there is; some of it stays free.
     * @throws Trouble.OutOfStorage the phone would be filled.
     */
    public static File copy(InputStream from, File folder, String name, long freeBytes) throws IOException {
        File file = new File(folder, name);
        long left = freeBytes - BundleImport.SPARE_BYTES;
        boolean isWhole = false;
        try (OutputStream out = new FileOutputStream(file)) {
            byte[] block = new byte[BLOCK_BYTES];
            for (int count = from.read(block); count >= 0; count = from.read(block)) {
                left -= count;
                if (left < 0) {
                    throw new Trouble.OutOfStorage(BundleImport.SPARE_BYTES - left, freeBytes);
                }
                out.write(block, 0, count);
            }
            isWhole = true;
        } finally {
            if (!isWhole) {
                file.delete();
            }
        }
        return file;
    }
}
