import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.Arrays;

/** Runs the public methods of test classes, each in a new folder, and prints one line for each. */
public final class Check {
    private static int folders;

    private Check() {}

    public static void main(String[] classes) throws Exception {
        for (String name : classes) {
            Class<?> type = Class.forName(name);
            for (Method method : type.getDeclaredMethods()) {
                if (Modifier.isPublic(method.getModifiers()) && !Modifier.isStatic(method.getModifiers())) {
                    run(type, method);
                }
            }
        }
        System.exit(0); // worker threads of a failed test may still wait
    }

    private static void run(Class<?> type, Method method) throws Exception {
        String outcome = "ok";
        try {
            method.invoke(type.getDeclaredConstructor().newInstance());
        } catch (InvocationTargetException error) {
            Throwable cause = error.getCause();
            outcome = cause + " at " + Arrays.toString(Arrays.copyOf(cause.getStackTrace(), 4));
        }
        System.out.println("RESULT " + type.getName() + "." + method.getName() + " " + outcome.replace('\n', ' '));
    }

    static void that(boolean holds, Object found) {
        if (!holds) {
            throw new AssertionError("found " + found);
        }
    }

    static void same(Object expected, Object found) {
        that(expected == null ? found == null : expected.equals(found), found + ", expected " + expected);
    }

    /** A new, empty folder. */
    static File folder() {
        File folder = new File(System.getProperty("work"), "folder" + folders++);
        that(folder.mkdirs(), folder);
        return folder;
    }

    /** The reference bundle. */
    static File bundle() {
        return new File(System.getProperty("bundle"));
    }

    static File copyOfBundle() throws IOException {
        File folder = new File(folder(), "copy");
        copy(bundle(), folder);
        return folder;
    }

    static void copy(File from, File to) throws IOException {
        if (from.isDirectory()) {
            to.mkdirs();
            for (File file : from.listFiles()) {
                copy(file, new File(to, file.getName()));
            }
            return;
        }
        byte[] bytes = bytes(from);
        write(to, bytes);
    }

    static byte[] bytes(File file) throws IOException {
        byte[] bytes = new byte[(int) file.length()];
        try (InputStream stream = new FileInputStream(file)) {
            int done = 0;
            while (done < bytes.length) {
                done += stream.read(bytes, done, bytes.length - done);
            }
        }
        return bytes;
    }

    static void write(File file, byte[] bytes) throws IOException {
        try (OutputStream stream = new FileOutputStream(file)) {
            stream.write(bytes);
        }
    }
}
